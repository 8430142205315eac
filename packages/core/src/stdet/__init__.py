"""stdet: detectors for STM32, from a YAML file to an int8 model. Importing this package imports nothing else."""

__version__ = "0.1.0"
