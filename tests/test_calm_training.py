"""A training under bad luck, as the command runs it: no shared memory, killed workers."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

STDET = str(Path(sys.executable).with_name("stdet"))
CONFIG = """\
operation_mode: training
general: { saved_models_dir: models, logger: None, global_seed: 1 }
model: { model_name: st_yolodv2milli_actrelu_pt, input_shape: [3, 64, 64] }
dataset: { dataset_name: synthetic, class_names: [disc], num_images: 24, image_size: 96, num_workers: 2 }
training: { batch_size: 8, epochs: 500, eval_interval: 500, device: cpu, optimizer: { SGD: { learning_rate: 0.01 } } }
hydra: { run: { dir: run } }
"""


def within_small_shm(command: list[str]) -> list[str]:
    """The command with a /dev/shm that holds not even one batch, where that can be had."""
    mount = "mount -t tmpfs -o size=64k none /dev/shm"
    if (
        shutil.which("unshare")
        and subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True).returncode == 0
    ):
        return ["unshare", "-m", "sh", "-c", f'{mount} && exec "$@"', "sh", *command]
    return command


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_training_needs_no_shared_memory_and_a_killed_worker_costs_no_step(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG)
    command = within_small_shm([STDET, "train", "config.yaml"])
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    latest = tmp_path / "run" / "models" / "latest_ckpt.pth"
    deadline = time.monotonic() + 240
    while not latest.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    workers = children(process.pid)
    assert len(workers) == 2
    saved = latest.stat().st_mtime_ns
    os.kill(workers[0], signal.SIGKILL)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 2, said
    assert "error: a data worker was killed (SIGKILL), as the system does when memory runs out" in said
    assert "dataset.num_workers" in said
    assert "training.resume_training_from=" in said
    assert latest.stat().st_mtime_ns > saved
