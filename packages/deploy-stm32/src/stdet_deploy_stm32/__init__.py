"""STM32 deploy targets for stdet: int8 quantization, board profiles, estimates and host latency."""

import stdet  # noqa: F401 - before anything imports onnxruntime: it switches that one's usage reports off

__version__ = "0.1.0"
