"""Distributions of strangers, as pip leaves them, and the command that runs beside them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from stdet.plugins import API_VERSION

HEAD = f"from stdet.plugins import hookimpl\nSTDET_API_VERSION = {API_VERSION}\n"
HOOK = "@hookimpl\ndef stdet_register_schedulers(register):\n    "
FINE = HEAD + HOOK + "register('{0}-fine', 'stdet.engine.schedules:Cosine', 'a schedule')\n"
"""A plugin without a fault; `{0}` is its distribution."""
ABSTRACT = "import abc\nclass Base(abc.ABC):\n    @abc.abstractmethod\n    def learning_rate(self): ...\n"


def site(root: Path, distribution: str, code: str, entry: str = "") -> None:
    """An installed distribution with one plugin, as pip leaves it."""
    module = distribution.replace("-", "_")
    (root / f"{module}.py").write_text(code)
    (root / f"{module}_more.py").write_text("raise SystemExit(4)")
    info = root / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    line = entry.format(module=module) or f"{distribution} = {module}"
    (info / "entry_points.txt").write_text(f"[stdet]\n{line}\n")


def environment(root: Path, **more: str) -> dict[str, str]:
    path = os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH"))))
    return os.environ | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"} | more


def stdet(root: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "stdet_cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment(root, **more))
