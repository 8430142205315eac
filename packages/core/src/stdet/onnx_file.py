"""What an ONNX file is, found out once before anything is done with it: the one admission check of all stages."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stdet.errors import ArtifactError

if TYPE_CHECKING:  # who asks for a list of models needn't load it
    from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto

MAX_OPERATORS = 5000
"""More is no detector: the largest published ones have about a thousand; some tools take quadratic time."""
MAX_FUNCTIONS = 400
"""Of a model's own, which may call each other."""
MAX_ELEMENTS = 1 << 30
"""Of one tensor: 4 GiB in float32."""
_LOOPS = ("Loop", "Scan")
_QUANTIZED = ("QuantizeLinear", "QLinearConv")
_UNCOUNTED = ("Constant", "QuantizeLinear", "DequantizeLinear")
_HINT = "export the float model again, with fixed shapes and without post-processing in the graph"


@dataclass(frozen=True)
class TensorFacts:
    """A tensor that enters or leaves a graph.

    Attributes:
        element: numpy's name of the type, such as `float32`; `other` for what isn't a tensor of numbers.
        shape: None for a dimension without a number; None altogether where the file says nothing.
    """

    name: str
    element: str
    shape: tuple[int | None, ...] | None

    def __str__(self) -> str:
        if self.shape is None:
            return f"`{self.name}` {self.element} of no stated shape"
        return f"`{self.name}` {self.element} [{', '.join('?' if n is None else str(n) for n in self.shape)}]"


@dataclass(frozen=True)
class OnnxFacts:
    """What an ONNX file is.

    Attributes:
        opset: version of the standard operator set; 0 where it imports none.
        inputs: what a caller feeds; constants that are listed among the inputs don't count.
        operators: how many compute.
        quantized: whether some are quantized.
    """

    path: Path
    opset: int
    inputs: tuple[TensorFacts, ...]
    outputs: tuple[TensorFacts, ...]
    operators: int
    quantized: bool

    def describe(self) -> str:
        """One line for people."""
        told = ", ".join(str(each) for each in self.outputs) + _meaning(self.outputs)
        return f"opset {self.opset}; takes {', '.join(str(each) for each in self.inputs)}; gives {told}"

    @property
    def no_image(self) -> str:
        """Why what it takes isn't one image (batch, channels, height, width); empty when it is."""
        (first, *others), known = self.inputs, self.inputs[0].shape
        if others:
            return "has several inputs"
        if first.element not in ("float32", "float16", "uint8", "int8"):
            return f"takes {first.element}"
        if known is not None and (len(known) != 4 or known[1] not in (None, 1, 3, 4)):
            return "takes no image (batch, channels, height, width)"
        return ""

    @property
    def image(self) -> TensorFacts:
        """The input, which is an image.

        Raises:
            ArtifactError: it isn't one.
        """
        if self.no_image:
            raise ArtifactError(f"{self.path} {self.no_image}: {self.describe()}", _HINT)
        return self.inputs[0]

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of the image; None where one of them has no number."""
        known = self.image.shape
        return None if known is None or known[2] is None or known[3] is None else (known[2], known[3])


def admit(path: Path) -> OnnxFacts:
    """Look at an ONNX file without running it. Takes time linear in its size.

    Raises:
        ArtifactError: not a file, empty, not ONNX, without a graph, input or output; or a graph that runs in a circle or
            a loop, that is no detector by its size, or whose tensors no memory holds. The message says what to do.
    """
    if not path.exists():
        raise ArtifactError(f"no model file at {path}", "check model.model_path")
    if not path.is_file():
        raise ArtifactError(f"{path} is no regular file", "check model.model_path")
    if path.stat().st_size == 0:
        raise ArtifactError(
            f"{path} is not a readable ONNX file, nor weights of torch: it is empty (0 bytes)",
            "fetch or export it again",
        )
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror or error}", "check model.model_path") from error
    except Exception as error:  # protobuf raises its own kinds for a file that isn't ONNX
        raise ArtifactError(
            f"{path} is not a readable ONNX file, nor weights of torch: {error}", "fetch or export it again"
        ) from error
    return facts_of(model, path)


def facts_of(model: ModelProto, path: Path) -> OnnxFacts:
    """As `admit`, of a model that is loaded already; `path` is what errors call it.

    Raises:
        ArtifactError: as `admit`.
    """
    if not model.graph.node:
        raise ArtifactError(
            f"{path} is not a readable ONNX file, nor weights of torch: it holds no graph", "fetch or export it again"
        )
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = tuple(_facts(value) for value in model.graph.input if value.name not in constants)
    outputs = tuple(_facts(value) for value in model.graph.output)
    if not inputs or not outputs:
        raise ArtifactError(f"{path} has no {'output' if inputs else 'input'}", _HINT)
    nodes = [*_all_nodes(model.graph), *(node for function in model.functions for node in function.node)]
    counted = _counted(model, path)
    for node in nodes:
        if node.op_type in _LOOPS:
            raise ArtifactError(f"{path} holds a loop ({node.op_type} `{node.name}`), whose length is data", _HINT)
    if counted > MAX_OPERATORS:
        raise ArtifactError(
            f"{path} holds {counted} operators; no detector for a microcontroller has more than {MAX_OPERATORS}", _HINT
        )
    _refuse_circles(model.graph, path)
    _refuse_giants(model, path)
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    return OnnxFacts(path, opset, inputs, outputs, counted, any(node.op_type in _QUANTIZED for node in nodes))


def _facts(value: ValueInfoProto) -> TensorFacts:
    import onnx

    if not value.type.HasField("tensor_type"):
        return TensorFacts(value.name, "other", None)
    kind = value.type.tensor_type
    try:
        element = str(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name)
    except (KeyError, ValueError, TypeError):
        element = "other"
    dims = tuple(dim.dim_value if dim.dim_value > 0 else None for dim in kind.shape.dim)
    return TensorFacts(value.name, element, dims if kind.HasField("shape") else None)


def _all_nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """The nodes of a graph and of the graphs inside them; protobuf itself limits how deep they lie."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs) if attribute.HasField("g") or attribute.graphs else ():
                yield from _all_nodes(inner)


def _counted(model: ModelProto, path: Path) -> int:
    """Operators that compute, with the model's own functions written out wherever they are called."""
    bodies = {(f.domain, f.name): f.node for f in model.functions}
    sizes: dict[tuple[str, str], int] = {}
    open_calls: set[tuple[str, str]] = set()

    def size(node: NodeProto) -> int:
        key = (node.domain, node.op_type)
        if key not in bodies:
            return int(node.op_type not in _UNCOUNTED)
        if key in open_calls:
            raise ArtifactError(f"{path}: the function `{node.op_type}` calls itself, so it never ends", _HINT)
        if key not in sizes:
            open_calls.add(key)
            sizes[key] = sum(size(inner) for inner in bodies[key])
            open_calls.discard(key)
        return sizes[key]

    if len(bodies) > MAX_FUNCTIONS:
        raise ArtifactError(f"{path} holds {len(bodies)} functions of its own; at most {MAX_FUNCTIONS} are read", _HINT)
    return sum(size(node) for node in _all_nodes(model.graph))


def computing_order(nodes: Sequence[NodeProto]) -> tuple[list[int], int | None]:
    """Indices of the nodes, each after what it reads; the present order decides where it can.

    Returns:
        The order, and the first node that has no place in it since it reads in a circle; None when all have one.
    """
    makers = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    missing = [{makers[name] for name in node.input if name in makers} for node in nodes]
    readers: list[list[int]] = [[] for _ in missing]
    for index, before in enumerate(missing):
        for other in before:
            readers[other].append(index)
    ready = [index for index, before in enumerate(missing) if not before]
    order: list[int] = []
    while ready:
        order.append(index := heapq.heappop(ready))
        for reader in readers[index]:
            missing[reader].discard(index)
            if not missing[reader]:
                heapq.heappush(ready, reader)
    return order, next((index for index, before in enumerate(missing) if before), None)


def _refuse_circles(graph: GraphProto, path: Path) -> None:
    """Each node must come after what it reads at some order: else shape inference and aliases never end."""
    _, left = computing_order(graph.node)
    if left is not None:
        node = graph.node[left]
        name = node.name or node.output[0]
        raise ArtifactError(f"{path} runs in a circle at {node.op_type} `{name}`, so it can't be computed", _HINT)


def _refuse_giants(model: ModelProto, path: Path) -> None:
    """Stored and stated shapes beyond any memory; what only running shows is left to the runtime."""
    values = [
        (v.name, v.type.tensor_type.shape.dim)
        for v in (*model.graph.value_info, *model.graph.output, *model.graph.input)
    ]
    shapes = [(name, [dim.dim_value for dim in dims]) for name, dims in values]
    shapes += [(tensor.name, list(tensor.dims)) for tensor in model.graph.initializer]
    for name, shape in shapes:
        elements = 1
        for side in shape:
            elements *= max(side, 1)
        if elements > MAX_ELEMENTS:
            raise ArtifactError(f"{path}: tensor `{name}` of shape {shape} fits into no memory", _HINT)


def _meaning(outputs: Sequence[TensorFacts]) -> str:
    """What detection outputs of these shapes usually are, in brackets; empty where nothing is known."""
    shapes = [each.shape for each in outputs]
    if len(shapes) == 1 and shapes[0] is not None and len(shapes[0]) == 3:
        _, rows, columns = shapes[0]
        if rows is not None and rows > 4 and (columns is None or rows < columns):
            return f" (as the yolov8 head of {rows - 4} classes: 4 box values and the classes by column)"
        if columns is not None and columns > 5:
            return f" (as a yolox head of {columns - 5} classes: 4 box values, objectness and classes by row)"
    if len(shapes) == 2 and sum(shape is not None and shape[-1] == 4 for shape in shapes) == 1:
        return " (as an SSD: class scores and box offsets)"
    if len(shapes) > 2 and all(shape is not None and len(shape) == 4 for shape in shapes):
        return " (maps of several levels, which must be joined in the graph to be read)"
    return ""
