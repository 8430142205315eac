"""A CUDA device without a GPU: tensors that say `cuda:0`, hold real values on the CPU, and refuse to meet other devices.

Shows on any machine whether code keeps its tensors on one device, whether it computes there what it computes on the CPU,
and where it makes a GPU wait. Gradients can't be computed: torch's engine asks the driver.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

aten: Any = torch.ops.aten

READS = ("_local_scalar_dense", "equal", "is_nonzero")
SIZES = ("nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "bincount", "nms")
"""Operations whose result has a size that only the device knows."""


@contextmanager
def simulated_cuda() -> Iterator[list[str]]:
    """In this context `cuda` is a device.

    Yields:
        A list that grows by a line for each time that a program would have waited for a GPU: why, and where.

    Raises:
        RuntimeError: in the context, where an operation gets tensors of two devices; single numbers on the CPU are fine.
    """
    torch._C._ensureCUDADeviceGuardSet()  # so that torch takes such tensors without a driver
    waits: list[str] = []
    with ExitStack() as stack:
        for module, name, stand_in in (
            (torch.cuda, "_lazy_init", lambda: None),
            (torch.cuda, "is_available", lambda: True),
            (torch.cuda, "Event", mock.MagicMock),
            (torch.__future__, "get_swap_module_params_on_conversion", lambda: True),
        ):
            stack.enter_context(mock.patch.object(module, name, stand_in))
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))  # the CPU has no such operations
        stack.enter_context(_Operations(waits))
        stack.enter_context(_Shortcuts())
        yield waits


class _OnCuda(Tensor):
    """Attributes:
    values: on the CPU, of the same shape, strides and dtype.
    """

    values: Tensor  # type: ignore[assignment]  # sparse tensors have a method of this name
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, values: Tensor) -> _OnCuda:
        layout = {"strides": values.stride(), "storage_offset": values.storage_offset(), "dtype": values.dtype}
        make: Any = torch.Tensor._make_wrapper_subclass
        made = make(cls, values.shape, device="cuda:0", **layout)
        made.values = values
        return made  # type: ignore[no-any-return]

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        raise RuntimeError(f"{function} outside of `simulated_cuda`")


class _Operations(TorchDispatchMode):
    """Computes each operation on the CPU, with the values, and wraps what it gives."""

    def __init__(self, waits: list[str]) -> None:
        super().__init__()
        self._waits = waits

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        ours: list[Tensor] = [tensor for tensor in tensors if isinstance(tensor, _OnCuda)]
        to_cuda = bool(ours)
        if kwargs.get("device") is not None:
            to_cuda = torch.device(kwargs["device"]).type == "cuda"
            kwargs["device"] = torch.device("cpu")
        if function in (aten._to_copy.default, aten.copy_.default):
            moved = len(ours) == 1 if function is aten.copy_.default else to_cuda != bool(ours)
            why = "a blocking copy" if moved and not _non_blocking(args, kwargs) else None
        else:
            _refuse_two_devices(function, tensors, ours)
            why = _why_it_waits(function, args, kwargs) if ours else None
        if why:
            self._waits.append(f"{why}: {function} in {_place()}")
        found = function(*tree_map(_values, args), **tree_map(_values, kwargs))
        known = {id(_values(tensor)): tensor for tensor in tensors}  # what is changed in place stays the same tensor

        def wrapped(value: Any) -> Any:
            if id(value) in known or not isinstance(value, Tensor):
                return known.get(id(value), value)
            return _OnCuda(value) if to_cuda else value

        return tree_map(wrapped, found)


class _Shortcuts(TorchFunctionMode):
    """What torch builds on a device, or reads from it, in one piece and without asking anybody: as a copy."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if function is Tensor.new_tensor:
            given, *args = args
            function, kwargs = torch.tensor, {"dtype": given.dtype, "device": given.device, **kwargs}
        if function in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            device = kwargs.pop("device")
            return function(*args, **kwargs).to(device)
        if function is Tensor.tolist:
            return args[0].cpu().tolist()
        return function(*args, **kwargs)


def _values(value: Any) -> Any:
    return value.values if isinstance(value, _OnCuda) else value


def _non_blocking(args: Any, kwargs: dict[str, Any]) -> bool:
    return bool(kwargs.get("non_blocking") or (len(args) > 2 and args[2]))


def _refuse_two_devices(function: Any, tensors: list[Tensor], ours: list[Tensor]) -> None:
    if ours and any(tensor.dim() for tensor in tensors if not isinstance(tensor, _OnCuda)):
        raise RuntimeError(f"{function}: expected all tensors to be on the same device, but found cuda:0 and cpu")


def _why_it_waits(function: Any, args: Any, kwargs: dict[str, Any]) -> str | None:
    """Why the operation makes the program wait for the device, if it does."""
    name = function._schema.name.partition("::")[2]
    if name in READS:
        return "a value is read"
    if name in SIZES or (name == "repeat_interleave" and kwargs.get("output_size") is None):
        return "a size is read"
    masks = name.startswith(("index", "_index_put")) and any(_is_mask(leaf) for leaf in tree_leaves(args[1]))
    filled = name.startswith(("index_put", "_index_put")) and args[2].numel() == 1 and len(args[1]) == 1
    return "the size of what a mask chooses is read" if masks and not filled else None


def _is_mask(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype in (torch.bool, torch.uint8)


def _place() -> str:
    """The line that asked for the operation: the innermost one outside of torch and of this file."""
    frame = sys._getframe(2)
    libraries = (str(Path(torch.__file__).parent), __file__)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(libraries):
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} ({frame.f_code.co_name})"
