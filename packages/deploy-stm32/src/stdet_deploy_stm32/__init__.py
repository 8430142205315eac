"""STM32 deploy targets for stdet: int8 quantization, board profiles, estimates and host latency."""

__version__ = "0.1.0"
