"""stdet: detectors for STM32, from a YAML file to an int8 model. Importing this package imports nothing else.

It switches off the usage reports that onnxruntime sends to its makers from the moment that it is imported, unless
`ORT_DISABLE_TELEMETRY` is set already: whoever makes a model didn't ask for them.
"""

import os

__version__ = "0.1.0"

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
