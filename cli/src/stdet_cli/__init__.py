"""The stdet command."""

__version__ = "0.1.0"
