"""Readers, synthetic data and training recipes for stdet."""

__version__ = "0.1.0"
