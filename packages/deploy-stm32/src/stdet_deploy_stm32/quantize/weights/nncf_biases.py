"""NNCF as quantizer: its bias correction, in the form that ST's compiler takes.

NNCF (https://github.com/openvinotoolkit/nncf, extra `nncf`) places Q/DQ for OpenVINO: inputs of SiLU stay in float, and its
accuracy rests on one activation scale a channel before depthwise convolutions, which the NPU hasn't. Its file can't be
brought into the form, so only what it does to the biases is taken; ranges and Q/DQ are this package's own.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
from onnx import ModelProto, numpy_helper

from stdet.errors import QuantizationError
from stdet.interfaces.deploy import CalibrationData, Progress
from stdet_deploy_stm32.onnx_graph.surgery import add_constant, graph_inputs, initializers, prune
from stdet_deploy_stm32.quantize.form.biases import BIASED
from stdet_deploy_stm32.quantize.images import images
from stdet_deploy_stm32.quantize.libraries import Library
from stdet_deploy_stm32.quantize.settings import Settings


def correct_by_nncf(
    library: Library,
    floating: ModelProto,
    data: CalibrationData,
    settings: Settings,
    progress: Progress | None = None,
) -> tuple[ModelProto, int]:
    """`floating` with the biases that NNCF's fast bias correction gives it, and how many of them changed.

    Args:
        library: NNCF.
        progress: called after each image that NNCF reads.

    Raises:
        QuantizationError: NNCF can't be used, or fails on the model; unusable images.
    """
    nncf = library.load()
    nncf.set_log_level(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it draws progress bars there, where --json goes
            quantized = nncf.quantize(
                floating,
                nncf.Dataset(_Feeds(floating, data, progress)),
                preset=nncf.QuantizationPreset.MIXED,  # weights symmetric, activations not: as in the form
                subset_size=data.count,
                ignored_scope=nncf.IgnoredScope(names=_left_in_float(floating, settings), validate=False),
                advanced_parameters=nncf.AdvancedQuantizationParameters(
                    overflow_fix=nncf.OverflowFix.DISABLE,  # else the weights get 7 bits, for old processors' sake
                    weights_quantization_params=_bits(nncf, settings.per_channel),
                    activations_quantization_params=_bits(nncf, False),
                ),
            )
    except QuantizationError:
        raise
    except Exception as error:
        raise library.failure(error) from error
    return _with_biases_of(library, quantized, floating)


class _Feeds:
    """The calibration images as NNCF wants them: read anew each time, never all in memory."""

    def __init__(self, model: ModelProto, data: CalibrationData, progress: Progress | None) -> None:
        self.model, self.data, self.progress = model, data, progress

    def __len__(self) -> int:
        return self.data.count

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        name = graph_inputs(self.model)[0].name
        for index, image in enumerate(images(self.model, self.data)):
            yield {name: image}
            if self.progress is not None:
                self.progress(index + 1, self.data.count)


def _bits(nncf: Any, per_channel: bool) -> Any:
    return nncf.quantization.advanced_parameters.QuantizationParameters(num_bits=8, per_channel=per_channel)


def _left_in_float(model: ModelProto, settings: Settings) -> list[str]:
    return [node.name for node in model.graph.node if not settings.chooses(node)]


def _with_biases_of(library: Library, quantized: ModelProto, floating: ModelProto) -> tuple[ModelProto, int]:
    """A copy of `floating` whose layers have the float biases of the layers of the same names in `quantized`."""
    theirs = {node.name: node for node in quantized.graph.node if node.op_type in BIASED}
    values = initializers(quantized)
    corrected = ModelProto()
    corrected.CopyFrom(floating)
    constants, changed = initializers(corrected), 0
    for node in corrected.graph.node:
        if node.op_type not in BIASED or len(node.input) < 3 or node.input[2] not in constants:
            continue
        other = theirs.get(node.name)
        if other is None or len(other.input) < 3 or other.input[2] not in values:
            raise QuantizationError(
                f"{library.title} {library.version()} left no float bias at node `{node.name}`, so its correction can't "
                "be taken over",
                "use quantization.quantizer: onnx_quantizer with BiasCorrection: True",
            )
        bias = numpy_helper.to_array(constants[node.input[2]])
        new = numpy_helper.to_array(values[other.input[2]]).reshape(bias.shape).astype(bias.dtype)
        if not np.array_equal(bias, new):
            node.input[2] = add_constant(corrected, f"{node.input[2]}_corrected", new)
            changed += 1
    prune(corrected)
    return corrected, changed
