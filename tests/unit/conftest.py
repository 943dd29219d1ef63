"""Drawn examples on a busy machine: no deadline, and the same ones on every run."""

from hypothesis import settings

settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")
