"""SSD-MobileNet detectors for stdet."""

__version__ = "0.1.0"
