"""The version of deepgsr."""

__version__ = "0.1.0"
