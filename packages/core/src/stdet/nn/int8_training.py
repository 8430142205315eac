"""Quantization-aware training: a detector computes as its int8 form will, and learns to live with it.

As in Jacob et al. (arXiv 1712.05877): weights and activations are rounded to 8 bits on the way forward, gradients pass
straight through the rounding. The form is the one that int8 files have: weights with the batch norm folded in, symmetric,
one scale an output channel; activations asymmetric, one range a tensor, a moving average of what the batches showed. The
statistics of the batch norms stay as they were learned, since an int8 file holds them as constants. The final joins of the
outputs stay in float, as they mostly do in int8 files.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call

from stdet.errors import ModelError
from stdet.interfaces.detector import Candidates, Detector, Targets

WEIGHT_LEVELS = {"Int8": (-127, 127), "Int4": (-8, 7)}
"""Type of the weights to the lowest and highest integer, as onnxruntime's quantizer uses them for symmetric weights."""
AVERAGING = 0.05
"""Share of a new batch in the moving average of an activation's range."""

_WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
_CARRIERS = frozenset({
    "Dropout", "Flatten", "MaxPool2d", "Upsample", "chunk", "contiguous", "flatten", "getattr", "getitem", "interpolate",
    "max_pool2d", "permute", "reshape", "size", "split", "squeeze", "transpose", "unsqueeze", "view",
})  # fmt: skip
"""Operators whose results are values of their inputs, so that they need no range of their own."""
_RECTIFIERS = frozenset({"ReLU", "ReLU6", "Hardtanh", "relu", "relu_", "relu6", "clamp", "clip"})
"""Operators that cost nothing in int8: the range of the tensor before cuts it."""
_JOINS = frozenset({"cat", "concat", "stack"})


class Int8Simulation(nn.Module):
    """What a detector's int8 form rounds, and where: the traced graph, and the range of each activation.

    Attributes:
        low, high: float32 (N,), range of each activation, NaN until a batch was seen; the only state.
    """

    low: Tensor
    high: Tensor

    def __init__(self, detector: Detector, weight_type: str) -> None:
        """Args:
        detector: any detector of the architecture; it isn't changed.
        weight_type: key of `WEIGHT_LEVELS`.

        Raises:
            ModelError: the forward pass can't be traced.
        """
        super().__init__()
        self.levels = WEIGHT_LEVELS[weight_type]
        self.graph, self.norms = _trace(detector)
        names = _names(self.graph, detector)
        self.index = {node.name: i for i, node in enumerate(n for n in self.graph.nodes if _is_rounded(n, names))}
        self.register_buffer("low", torch.full((len(self.index),), torch.nan))
        self.register_buffer("high", torch.full((len(self.index),), torch.nan))

    def of(self, detector: Detector) -> SimulatedDetector:
        """`detector`, which has the architecture of the traced one, computing as its int8 form will."""
        return SimulatedDetector(detector, self)

    @torch.no_grad()
    def observe(self, index: int, values: Tensor) -> None:
        """Move the range of activation `index` towards that of a batch's values, float of any shape."""
        for ends, seen in zip((self.low, self.high), torch.aminmax(values.detach()), strict=True):
            ends[index] = torch.where(ends[index].isnan(), seen, torch.lerp(ends[index], seen, AVERAGING))

    def round(self, index: int, values: Tensor) -> Tensor:
        """`values`, float32 of any shape, cut to their range and rounded to its 256 steps, 0 among them."""
        low, high = self.low[index].clamp(max=0), self.high[index].clamp(min=0)
        scale = ((high - low) / 255).clamp(min=torch.finfo(torch.float32).tiny)
        zero_point = (-128 - low / scale).round().to(torch.int32)
        return torch.fake_quantize_per_tensor_affine(values, scale, zero_point, -128, 127)

    def round_weight(self, weight: Tensor, axis: int) -> Tensor:
        """`weight`, float32 of any shape, rounded symmetrically, a scale for each index of `axis`; gradients pass."""
        lowest, highest = self.levels
        largest = weight.detach().abs().amax([d for d in range(weight.ndim) if d != axis], keepdim=True)
        scale = (2 * largest / (highest - lowest)).clamp(min=torch.finfo(torch.float32).tiny)
        # Divided, as quantizers do: times 1/scale, the largest of 4-bit weights, half-way between two, may go the other way.
        rounded = (weight.detach() / scale).round().clamp(lowest, highest) * scale
        return weight + (rounded - weight.detach())


class SimulatedDetector(Detector):
    """A detector whose forward pass rounds as its int8 form will; loss, outputs and decoding are the detector's own.

    In training it also observes the ranges of the activations.
    """

    def __init__(self, detector: Detector, simulation: Int8Simulation) -> None:
        super().__init__()
        self.spec = detector.spec
        self.output_names, self.output_parts = detector.output_names, detector.output_parts  # type: ignore[misc]
        self.detector = detector
        self.simulation = simulation
        self.train(detector.training)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        raw: tuple[Tensor, ...] = _Run(self.detector, self.simulation, self.training).run(images)
        return raw

    def loss(self, raw: Sequence[Tensor], targets: Targets, *, augmentation_closed: bool = False) -> dict[str, Tensor]:
        return self.detector.loss(raw, targets, augmentation_closed=augmentation_closed)

    def export_outputs(self, raw: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return self.detector.export_outputs(raw)

    def decode(self, outputs: Sequence[Tensor], input_size: tuple[int, int] | None = None) -> Candidates:
        return self.detector.decode(outputs, input_size)

    def class_dependent_keys(self) -> frozenset[str]:
        return self.detector.class_dependent_keys()


class _Run(fx.Interpreter):
    """One forward pass over the traced graph, with the weights of `detector`."""

    def __init__(self, detector: Detector, simulation: Int8Simulation, observe: bool) -> None:
        super().__init__(detector, graph=simulation.graph)
        self.simulation = simulation
        self.observe = observe

    def run_node(self, n: fx.Node) -> Any:
        module = self.submodules.get(str(n.target)) if n.op == "call_module" else None
        if isinstance(module, (*_WEIGHTED, *_NORMS)):
            args, _ = self.fetch_args_kwargs_from_env(n)
            result = self._layer(module, self.simulation.norms.get(n.name), args[0])
        else:
            result = super().run_node(n)
        index = self.simulation.index.get(n.name)
        if index is None or not isinstance(result, Tensor) or not result.is_floating_point():
            return result
        if self.observe:
            self.simulation.observe(index, result)
        return self.simulation.round(index, result)

    def _layer(self, module: nn.Module, norm: str | None, values: Tensor) -> Tensor:
        """A layer with weights, and the batch norm `norm` behind it folded in; or a batch norm of its own."""
        if isinstance(module, _NORMS):
            factor, offset = _affine(module)
            shape = [-1 if i == 1 else 1 for i in range(values.ndim)]
            return values * factor.view(shape) + offset.view(shape)
        weight, bias = module.weight, module.bias
        assert isinstance(weight, Tensor)
        assert isinstance(bias, Tensor | None)
        if norm is not None:
            factor, offset = _affine(self.submodules[norm])
            weight = weight * factor.view(-1, *[1] * (weight.ndim - 1))
            bias = offset if bias is None else bias * factor + offset
        weight = self.simulation.round_weight(weight, 1 if isinstance(module, nn.ConvTranspose2d) else 0)
        parameters: dict[str, Any] = {"weight": weight, "bias": bias}
        result: Tensor = functional_call(module, parameters, (values,))
        return result


def _affine(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """(factor, offset) of each channel, (C,), that a batch norm applies when it doesn't train."""
    assert isinstance(norm, _NORMS)
    if norm.running_mean is None or norm.running_var is None:
        raise ModelError("a batch norm without running statistics can't be folded", "set track_running_stats=True")
    factor = (norm.running_var + norm.eps).rsqrt()
    factor = factor if norm.weight is None else factor * norm.weight
    offset = -norm.running_mean * factor
    return factor, offset if norm.bias is None else offset + norm.bias


# --- the graph -----------------------------------------------------------------------------------------------------------


class _Tracer(fx.Tracer):
    """Keeps layers with weights whole, also those of plugins' own classes."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, (*_WEIGHTED, *_NORMS)) or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        if isinstance(m, nn.Sequential):  # a slice of one is no submodule and has no name
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)


def _trace(detector: Detector) -> tuple[fx.Graph, dict[str, str]]:
    """The operators of the forward pass, and which batch norm is folded into which node."""
    try:
        graph = _Tracer().trace(detector)
    except Exception as error:  # tracing runs a plugin's own code, which may raise anything
        raise ModelError(
            f"the forward pass of {detector.spec.model_name} can't be traced, so int8 can't be simulated: {error}",
            "a detector's forward is one static graph that doesn't branch on values; or train without "
            "training.quantization_aware",
        ) from error
    modules = dict(detector.named_modules())
    norms: dict[str, str] = {}
    for node in list(graph.nodes):
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        source = node.args[0] if node.args else None
        if isinstance(module, nn.Identity):
            _replace(graph, node, source)
        elif isinstance(module, nn.SiLU) or node.target is nn.functional.silu:
            with graph.inserting_before(node):  # int8 files hold it in two operators, each rounded
                gate = graph.call_function(torch.sigmoid, (source,))
                _replace(graph, node, graph.call_function(operator.mul, (source, gate)))
        elif isinstance(module, _NORMS) and isinstance(source, fx.Node) and len(source.users) == 1:
            before = modules.get(str(source.target)) if source.op == "call_module" else None
            if isinstance(before, nn.Conv1d | nn.Conv2d | nn.Linear):
                norms[source.name] = str(node.target)
                _replace(graph, node, source)
    return graph, norms


def _replace(graph: fx.Graph, node: fx.Node, by: Any) -> None:
    node.replace_all_uses_with(by)
    graph.erase_node(node)


def _names(graph: fx.Graph, detector: Detector) -> dict[fx.Node, str]:
    """What each node does: the class of its module, or the name of its function or method."""
    modules = dict(detector.named_modules())
    return {
        node: type(modules[str(node.target)]).__name__
        if node.op == "call_module"
        else getattr(node.target, "__name__", str(node.target))
        for node in graph.nodes
    }


def _is_rounded(node: fx.Node, names: dict[fx.Node, str]) -> bool:
    """Whether the node's result is a tensor with a range of its own in the int8 form."""
    if node.op in ("output", "get_attr") or names[node] in _CARRIERS:
        return False
    users = list(node.users)
    if len(users) == 1 and names[users[0]] in _RECTIFIERS:
        return False
    return not (names[node] in _JOINS and _leads_out(node, names))


def _leads_out(node: fx.Node, names: dict[fx.Node, str]) -> bool:
    """Whether the node's result only moves on its way to the outputs."""
    return all(
        user.op == "output" or (names[user] in _CARRIERS | _JOINS and _leads_out(user, names)) for user in node.users
    )
