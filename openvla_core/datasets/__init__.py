"""Demonstrations: episodes from recordings and published formats, checked, mixed and streamed into training."""
