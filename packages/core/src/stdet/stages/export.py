"""The float ONNX of a checkpoint."""

from __future__ import annotations

from stdet.errors import ConfigError
from stdet.stages.models import export_checkpoint, model_file
from stdet.stages.run import Run


def export(run: Run) -> None:
    """Write the float ONNX of the run's checkpoint; it becomes the run's model.

    Raises:
        ConfigError: `model.model_path` is an ONNX file already.
    """
    checkpoint = model_file(run)
    if checkpoint is not None and checkpoint.is_onnx:
        raise ConfigError(
            f"model.model_path {checkpoint.path} is an ONNX file already", "give a checkpoint (.pth) to export"
        )
    export_checkpoint(run, checkpoint)
