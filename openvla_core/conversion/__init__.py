"""Offline tools that turn other people's weight files into checkpoint directories. Serving never imports them."""
