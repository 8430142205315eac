"""What the process holds of memory that is free again; glibc's habits cost quantization some 150 MiB at its peak."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_MMAP_THRESHOLD = -3  # <malloc.h>
_LARGE = 1 << 20
_GLIBC_LIMIT = 32 << 20


@contextmanager
def large_blocks_returned() -> Iterator[None]:
    """Within it, a tensor of a MiB or more goes back to the system as soon as it is freed.

    Left alone, glibc raises that size up to 32 MiB while it frees such blocks, and keeps them in its heap, in pieces that
    the next layer's may not fit. Other C libraries are left as they are.
    """
    mallopt = _of_libc("mallopt")
    mallopt(_MMAP_THRESHOLD, _LARGE)
    try:
        yield
    finally:
        mallopt(_MMAP_THRESHOLD, _GLIBC_LIMIT)  # where its own adjustment ends; it doesn't go on once this was called


def return_memory() -> None:
    """Give freed blocks of any size back to the system, such as those of a model that was parsed."""
    _of_libc("malloc_trim")(0)


def _of_libc(name: str) -> Callable[..., int]:
    """A function of glibc; one that does nothing elsewhere."""
    function: Callable[..., int] | None = getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
    return function or (lambda *_: 0)
