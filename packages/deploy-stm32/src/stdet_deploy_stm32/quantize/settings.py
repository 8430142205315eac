"""The `quantization` section of the config as one checked value. Configs are checked by this: it imports no ONNX."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stdet.errors import QuantizationError

if TYPE_CHECKING:
    from onnx import NodeProto

TYPES = ("Int4", "UInt4", "Int8", "UInt8", "Int16", "UInt16")
PLAIN = "onnx_quantizer"
"""Value of `quantizer` that asks for no library."""


@dataclass(frozen=True)
class Override:
    """What one tensor gets instead of the general settings.

    Attributes:
        tensor: name.
        quant_type: one of `TYPES`, or None for the general type.
        scale, zero_point: one value a channel, or one for the tensor; both or none.
        axis: channel axis of a per-channel weight; None quantizes per tensor.
    """

    tensor: str
    quant_type: str | None
    scale: tuple[float, ...] | None
    zero_point: tuple[int, ...] | None
    axis: int | None


@dataclass(frozen=True)
class Settings:
    """How to quantize, whatever the methods; each attribute is a config key of the same meaning.

    Attributes:
        sections: the nested sections by name, where each step of `steps` finds its own keys.
    """

    quantizer: str
    method: str
    per_channel: bool
    target_opset: int
    input_type: str
    output_type: str
    weight_type: str
    activation_type: str
    op_types: tuple[str, ...]
    nodes: tuple[str, ...]
    exclude: tuple[str, ...]
    weight_symmetric: bool
    activation_symmetric: bool
    quantize_bias: bool
    weight_overrides: tuple[Override, ...]
    activation_overrides: tuple[Override, ...]
    sections: Mapping[str, object] = field(repr=False)

    @property
    def activation_levels(self) -> int:
        """Values that a quantized activation can have."""
        return 1 << int(self.activation_type.lower().removeprefix("u").removeprefix("int"))

    def chooses(self, node: NodeProto) -> bool:
        """Whether `op_types`, `nodes` and `exclude` let this node be quantized."""
        return (
            node.name not in self.exclude
            and (not self.nodes or node.name in self.nodes)
            and (not self.op_types or node.op_type in self.op_types)
        )


def choose(key: str, value: str, allowed: Collection[str]) -> str:
    """The member of `allowed` that `value` names, whatever its case.

    Raises:
        QuantizationError: it names none.
    """
    for name in allowed:
        if str(value).lower() == name.lower():
            return name
    raise QuantizationError(f"quantization.{key} is {value!r}", f"allowed: {', '.join(allowed)}")


def check_names(key: str, names: Iterable[str], known: Collection[str]) -> None:
    """Refuse names that the graph doesn't have.

    Raises:
        QuantizationError: names the key, the unknown name and the nearest ones.
    """
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.3) or sorted(known)[:3]
            raise QuantizationError(
                f"quantization.{key}: the model has no `{name}`", f"nearest: {', '.join(f'`{n}`' for n in near)}"
            )
