"""Where a run happened: the versions of what computed it, and the machine."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from stdet.plugins.choice import owner
from stdet.plugins.loader import installed

OURS = ("stdet-cli",)
"""Distributions of ours without a plugin."""
COMPUTE = ("torch", "torchvision", "numpy", "onnx", "onnxruntime", "opencv-python-headless")
"""What the numbers of a run depend on."""


def installed_versions() -> dict[str, str]:
    """Distribution to version: `python`, those that are or extend stdet by name, then what computes. Nothing is imported."""
    found = {"python": platform.python_version()}
    extending = dict(owner(point) for point in installed([]))
    for name in OURS:
        extending |= _version(name)
    found |= dict(sorted(extending.items()))
    for name in COMPUTE:
        found |= _version(name)
    return found


def environment() -> dict[str, Any]:
    """The machine and the versions, JSON-able; neither a user nor a host is named."""
    return {
        "versions": installed_versions(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "processors": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
    }


def _version(name: str) -> dict[str, str]:
    try:
        return {name: version(name)}
    except PackageNotFoundError:
        return {}
