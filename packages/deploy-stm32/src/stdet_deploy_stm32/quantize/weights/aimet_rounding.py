"""AIMET as quantizer: its AdaRound chooses the rounding of the weights, in the form that ST's compiler takes.

AIMET (https://github.com/quic/aimet, extra `aimet`) simulates quantization with operators of its own and places it for
Qualcomm's processors, so only the weights that its AdaRound (arXiv 2004.10568) rounds are taken, with their scales;
activations, biases and Q/DQ are this package's own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import io
import logging
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from onnx import ModelProto, NodeProto, helper, numpy_helper

from stdet.errors import QuantizationError
from stdet.interfaces.deploy import CalibrationData, Progress
from stdet_deploy_stm32.onnx_graph.gradients import one_thread
from stdet_deploy_stm32.onnx_graph.surgery import consumers, graph_inputs, initializers
from stdet_deploy_stm32.quantize.form.check import channel_axis
from stdet_deploy_stm32.quantize.images import images, subset
from stdet_deploy_stm32.quantize.libraries import Library
from stdet_deploy_stm32.quantize.settings import Override, Settings

IMAGES = 16
"""Calibration images, spread over all, that AIMET sees: it keeps a layer's activations of all of them in memory."""
_BITS = {"Int4": 4, "Int8": 8}
_LAYERS = ("Conv", "Gemm", "MatMul")


@dataclasses.dataclass(frozen=True)
class Rounded:
    """Attributes:
    model: the float model, its weights on the steps that AIMET chose.
    scales: these steps beside the overrides of the settings, so that quantizing `model` changes no weight.
    record: for the artifact's metadata.
    """

    model: ModelProto
    scales: tuple[Override, ...]
    record: dict[str, Any]


def round_by_aimet(
    library: Library,
    floating: ModelProto,
    data: CalibrationData,
    settings: Settings,
    iterations: int,
    progress: Progress | None = None,
) -> Rounded:
    """The weights of `floating` rounded by AdaRound, layer after layer, behind the layers that are rounded already.

    Left to plain rounding are weights with a type, scale or granularity that AdaRound has no say in, and those that AIMET
    passes over (shared by several layers, convolutions over one or three axes).

    Args:
        library: AIMET.
        iterations: of each layer.
        progress: called after each node of the graph.

    Raises:
        QuantizationError: AIMET can't be used, or fails on the model; unusable images.
    """
    aimet = library.load()
    importlib.import_module(f"{library.module}.common.utils").AimetLogger.set_level_for_all_areas(logging.ERROR)
    layers = _layers(floating, settings)
    few = subset(data, IMAGES)
    name = graph_inputs(floating)[0].name
    feeds = [{name: image} for image in images(floating, few)]
    try:
        with _quiet(library, progress), one_thread(), _seeded():
            sim = aimet.QuantizationSimModel(_with_plain_results(floating))
            for node, kind in layers:
                quantizer = sim.qc_quantize_op_dict[node.input[1]]
                quantizer.enable_per_channel_quantization()
                quantizer.set_bitwidth(_BITS[kind])
                quantizer.use_strict_symmetric = True  # -127..127, as everywhere here
            if layers:  # an empty list would mean all
                aimet.apply_adaround(sim, feeds, iterations, [node.name for node, _ in layers])
    except Exception as error:
        raise library.failure(error) from error
    model, scales, found = _taken_over(floating, settings, layers, sim)
    record = {"version": library.version(), "iterations": iterations, "images": few.count} | found
    return Rounded(model, scales, record)


def _layers(model: ModelProto, settings: Settings) -> list[tuple[NodeProto, str]]:
    """Layers whose weights are to be rounded, and the type of these weights."""
    constants, overrides = initializers(model), {o.tensor: o for o in settings.weight_overrides}
    found = []
    for node in model.graph.node:
        if node.op_type not in _LAYERS or node.input[1] not in constants or not settings.chooses(node):
            continue
        override = overrides.get(node.input[1])
        kind = settings.weight_type if override is None else override.quant_type or settings.weight_type
        if kind in _BITS and (override is None or (override.scale is None and override.axis is not None)):
            found.append((node, kind))
    return found


def _with_plain_results(model: ModelProto) -> ModelProto:
    """A copy in which no activation but Relu follows a layer at once.

    AIMET compares results behind the activation that follows. It takes the Sigmoid of a SiLU for all of it, and each Clip
    for a ReLU6, so it would round for values that the network doesn't compute.
    """
    copy = ModelProto.FromString(model.SerializeToString())
    readers = consumers(model)
    del copy.graph.node[:]
    for node in model.graph.node:
        copy.graph.node.append(node)
        follow = readers.get(node.output[0], []) if node.op_type in _LAYERS else []
        if follow and any(reader.op_type != "Relu" for reader in follow):
            plain = f"{node.output[0]}_plain"
            copy.graph.node[-1].output[0] = plain
            copy.graph.node.append(helper.make_node("Identity", [plain], [node.output[0]], f"{node.name}_plain"))
    return copy


def _taken_over(
    floating: ModelProto, settings: Settings, layers: Sequence[tuple[NodeProto, str]], sim: Any
) -> tuple[ModelProto, tuple[Override, ...], dict[str, Any]]:
    """`floating` with the weights of `sim` on their steps, these steps, and what was found."""
    model = ModelProto.FromString(floating.SerializeToString())
    mine, theirs = initializers(model), initializers(sim.model.model)
    overrides = {o.tensor: o for o in settings.weight_overrides}
    rounded = moved = weights = 0
    for node, kind in layers:
        name = node.input[1]
        quantizer = sim.qc_quantize_op_dict[name]
        if not quantizer.is_encoding_frozen():
            continue
        before = numpy_helper.to_array(mine[name])
        axis = channel_axis(node) % before.ndim
        scale = np.array([encoding.delta for encoding in quantizer.get_encodings()], np.float32)
        if len(scale) != before.shape[axis]:
            raise QuantizationError(
                f"AIMET gives `{name}` {len(scale)} scales for {before.shape[axis]} output channels",
                "use quantization.quantizer: onnx_quantizer",
            )
        step = scale.reshape([-1 if i == axis else 1 for i in range(before.ndim)])
        largest = 2 ** (_BITS[kind] - 1) - 1
        # AdaRound's last weights lie between two steps where it is undecided; the nearer one is its choice.
        chosen, nearest = (
            np.rint(w / step).clip(-largest, largest) for w in (numpy_helper.to_array(theirs[name]), before)
        )
        mine[name].CopyFrom(numpy_helper.from_array((chosen * step).astype(np.float32), name))
        overrides[name] = Override(name, kind, tuple(map(float, scale)), (0,) * len(scale), axis)
        rounded, moved, weights = rounded + 1, moved + int((chosen != nearest).sum()), weights + before.size
    found = {
        "layers": rounded,
        "share_not_rounded_to_nearest": round(moved / weights, 4) if weights else 0.0,
    }
    return model, tuple(overrides.values()), found


@contextlib.contextmanager
def _quiet(library: Library, progress: Progress | None) -> Iterator[None]:
    """AIMET prints nothing, and its progress bar over the nodes becomes `progress`."""
    module: Any = importlib.import_module(f"{library.module}.adaround.adaround_weight")

    def counted(items: Iterable[Any]) -> Iterator[Any]:
        known = list(items)
        for index, item in enumerate(known):
            yield item
            if progress is not None:
                progress(index + 1, len(known))

    before = module.progress_bar
    module.progress_bar = counted
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        module.progress_bar = before


@contextlib.contextmanager
def _seeded() -> Iterator[None]:
    """AIMET draws from the global generators of torch, and of NumPy where memory is short."""
    before = np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            np.random.seed(0)
            yield
    finally:
        np.random.set_state(before)
