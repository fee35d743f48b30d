"""A busy machine may take its time over an example: no law is broken by that."""

from hypothesis import settings

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
