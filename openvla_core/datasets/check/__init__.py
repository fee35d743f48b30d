"""Finds the mistakes in recorded demonstrations before they are trained on: one family of findings per file."""
