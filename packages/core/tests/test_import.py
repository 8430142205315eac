"""What importing stdet does, and what it keeps others from doing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_onnxruntime_sends_no_usage_reports_from_under_stdet(tmp_path: Path) -> None:
    """Its reports start with a data base below the home folder, made when it is imported."""
    environment = {k: v for k, v in os.environ.items() if k not in ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")}
    command = "import stdet, onnxruntime"
    subprocess.run([sys.executable, "-c", command], env=environment | {"HOME": str(tmp_path)}, check=True)
    assert not list(tmp_path.rglob("*.db"))


def test_whoever_wants_usage_reports_keeps_them() -> None:
    environment = os.environ | {"ORT_DISABLE_TELEMETRY": "0"}
    command = "import stdet, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    shown = subprocess.run(
        [sys.executable, "-c", command], env=environment, check=True, capture_output=True, text=True
    ).stdout
    assert shown == "0\n"
