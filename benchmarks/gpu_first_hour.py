"""The steps of gpu_first_hour.sh: what holds on a machine with a GPU, or what a CPU can show of it.

Each step says what it must show, trains on generated images by `stdet.api`, and ends with a verdict.
Run: benchmarks/gpu_first_hour.sh [--smoke] [STEP ...]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from stdet import api
from stdet.engine.callbacks import Callback
from stdet.engine.trainer import Trainer
from stdet.errors import StdetError
from stdet.interfaces.reporter import SilentReporter

MODEL = "st_yolodv2milli_actrelu_pt"
PEERS_WAIT_S = 300
WAITS_ALLOWED = 10
"""Synchronizations of a step: three by the loss, as the models' contract says, the rest by scaler, watch and reports. Not
measured on a GPU yet, as the next one; whoever does may tighten both."""
IDLE_ALLOWED = 0.5
NEAR_AP = 1e-3
STEPS_PER_EPOCH = 32
WATCHED = range(STEPS_PER_EPOCH + 8, STEPS_PER_EPOCH + 28)
"""Steps of a training that are counted and profiled: in its second epoch, when images lie in memory, and within it, since its
end writes checkpoints."""


class Failed(Exception):
    """A step doesn't show what it must."""


class Skipped(Exception):
    """This machine can't show it."""


@dataclass(frozen=True)
class Step:
    """Attributes:
    shows: what it must show.
    devices: CUDA devices without which it is skipped.
    run: gets the machine; returns what it saw.
    """

    shows: str
    devices: int
    run: Callable[[Machine], str]


STEPS: dict[str, Step] = {}


def step(shows: str, devices: int = 1) -> Callable[[Callable[[Machine], str]], Callable[[Machine], str]]:
    def enter(run: Callable[[Machine], str]) -> Callable[[Machine], str]:
        STEPS[run.__name__] = Step(shows, devices, run)
        return run

    return enter


class Notes(SilentReporter):
    """Keeps what people are told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, message: str) -> None:
        self.lines.append(message)


@dataclass(frozen=True)
class Ran:
    """Attributes:
    folder: of the checkpoints.
    epochs: of `history.json`.
    """

    folder: Path
    epochs: list[dict[str, float]]
    notes: list[str]

    @property
    def latest(self) -> Path:
        return self.folder / "latest_ckpt.pth"

    def told(self, text: str) -> None:
        demand(any(text in note for note in self.notes), f"no note says `{text}`: {self.notes}")


@dataclass(frozen=True)
class Machine:
    """Attributes:
    work: an empty folder.
    smoke: as small as it goes.
    """

    work: Path
    smoke: bool

    @property
    def device(self) -> str:
        return "cuda" if torch.cuda.is_available() else "cpu"

    def config(self, name: str, **changes: Any) -> Path:
        """Write the config of a training, `changes` being keys of its sections `training` and `dataset`."""
        size, images = (64, 16) if self.smoke else (256, 512)
        dataset = {
            "dataset_name": "synthetic",
            "class_names": ["disc"],
            "num_images": images,
            "image_size": size,
            "max_objects": 3,
            "num_workers": 0 if self.smoke else min(16, os.cpu_count() or 1),
            "cache_images": "ram",
        }
        training = {
            "batch_size": 4 if self.smoke else 16,
            "epochs": 1,
            "device": self.device,
            "optimizer": {"AdamW": {"learning_rate": 0.002}},
        }
        for key, value in changes.items():
            (dataset if key in dataset else training)[key] = value
        document = {
            "operation_mode": "training",
            "general": {"logger": None, "saved_models_dir": "models"},
            "model": {"model_name": MODEL, "input_shape": [3, size, size]},
            "dataset": dataset,
            "training": training,
            "hydra": {"run": {"dir": str(self.work / name)}},
        }
        path = self.work / f"{name}.yaml"
        path.write_text(yaml.safe_dump(document), encoding="utf-8")
        return path

    def train(self, name: str, callbacks: tuple[Callback, ...] = (), **changes: Any) -> Ran:
        """Train in this process; every mean loss must be finite."""
        notes = Notes()
        api.run(api.load_config(self.config(name, **changes)), notes, callbacks)
        return self.ran(name, notes.lines)

    def ran(self, name: str, notes: list[str]) -> Ran:
        folder = self.work / name / "models"
        epochs = json.loads((folder / "history.json").read_text(encoding="utf-8"))["epochs"]
        losses = [row["total"] for row in epochs]
        demand(all(math.isfinite(loss) for loss in losses), f"losses {losses}")
        return Ran(folder, epochs, notes)

    def train_in_two(self, name: str, poison: str = "-", **changes: Any) -> list[str]:
        """Train by torchrun in two processes; what each says at its end."""
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", __file__]
        config = self.config(name, **changes)
        try:
            done = subprocess.run(
                [*command, "--work", str(self.work), "--rank-of", str(config), poison],
                timeout=PEERS_WAIT_S,
                capture_output=True,
                text=True,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise Failed(f"the two processes hadn't ended after {PEERS_WAIT_S} s") from error
        demand(done.returncode == 0, f"torchrun ended with {done.returncode}: {done.stderr[-2000:]}")
        return [(self.work / f"rank{number}").read_text(encoding="utf-8") for number in range(2)]


def demand(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Failed(otherwise)


# --- steps -----------------------------------------------------------------------------------------------------------


@step("three epochs; the mean loss falls", devices=0)
def train(machine: Machine) -> str:
    losses = [row["total"] for row in machine.train("run", epochs=3).epochs]
    demand(losses[-1] < losses[0], f"losses {losses}")
    return f"{machine.device}, loss {losses[0]:.3f} to {losses[-1]:.3f}"


@step("float16 autocast with gradient scaling; the mean loss is finite and falls")
def fp16(machine: Machine) -> str:
    ran = machine.train("run", epochs=3, fp16=True)
    ran.told("float16 autocast with gradient scaling")
    losses = [row["total"] for row in ran.epochs]
    demand(losses[-1] < losses[0], f"losses {losses}")
    return f"loss {losses[0]:.3f} to {losses[-1]:.3f}"


@step("a compiled network trains, its first losses near those of the plain one")
def compiled(machine: Machine) -> str:
    try:
        import triton  # noqa: F401
    except ImportError as error:
        raise Skipped("torch.compile needs triton on CUDA, which isn't installed") from error
    plain, fast = (machine.train(f"run{on}", compile=on).epochs[0]["total"] for on in (False, True))
    demand(math.isclose(plain, fast, rel_tol=0.05), f"{plain} plain, {fast} compiled")
    return f"mean loss {plain:.4f} plain, {fast:.4f} compiled"


@step("a float32 training of the CPU goes on in float16 on CUDA, and says that the precision changes")
def to_cuda(machine: Machine) -> str:
    return _moved(machine, {"device": "cpu"}, {"device": "cuda", "fp16": True})


@step("a float16 training of CUDA goes on in float32 on the CPU, and says that the precision changes")
def to_cpu(machine: Machine) -> str:
    return _moved(machine, {"device": "cuda", "fp16": True}, {"device": "cpu"})


def _moved(machine: Machine, before: dict[str, Any], after: dict[str, Any]) -> str:
    first = machine.train("first", **before)
    second = machine.train("second", **after, epochs=2, resume_training_from=str(first.latest))
    second.told("the precision changes")
    return _went_on(first, second)


def _went_on(first: Ran, second: Ran) -> str:
    second.told("at epoch 2, step 1")
    demand(second.epochs[:1] == first.epochs, "the history of the first epoch is another")
    demand(len(second.epochs) == 2, f"{len(second.epochs)} epochs")
    return f"loss {first.epochs[0]['total']:.3f} before, {second.epochs[1]['total']:.3f} after"


@step("two processes (NCCL; gloo without CUDA) train together and end", devices=2)
def two_ranks(machine: Machine) -> str:
    said = machine.train_in_two("run")
    demand(said == ["finished", "finished"], f"the processes said {said}")
    return f"{machine.device}, loss {machine.ran('run', []).epochs[0]['total']:.3f}"


@step("a training of two processes goes on in one, on one device", devices=2)
def two_to_one(machine: Machine) -> str:
    batch = 2 if machine.smoke else 8
    demand(machine.train_in_two("first", batch_size=batch) == ["finished"] * 2, "the first training failed")
    first = machine.ran("first", [])
    return _went_on(
        first, machine.train("second", batch_size=2 * batch, epochs=2, resume_training_from=str(first.latest))
    )


@step(
    "the loss of process 1 becomes NaN: both end, one names its step, the other says that another process did",
    devices=2,
)
def nan_in_one(machine: Machine) -> str:
    said = machine.train_in_two("run", poison="1")
    demand("the loss of another process is no longer finite" in said[0], f"process 0 said: {said[0]}")
    demand("the loss is no longer finite in epoch 1, step 2" in said[1], f"process 1 said: {said[1]}")
    return f"{machine.device}, both ended with their message"


@step("where memory doesn't hold a batch, it is computed in parts, with a note, and the epoch ends")
def memory(machine: Machine) -> str:
    machine.train("small", batch_size=8, num_images=64)
    limit = 1.5 * torch.cuda.max_memory_reserved()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(limit / torch.cuda.get_device_properties(0).total_memory)
    ran = machine.train("huge", batch_size=128, num_images=256)
    ran.told("out of memory: each batch is computed in")
    return next(note for note in reversed(ran.notes) if "out of memory" in note)


@step(f"a training step in float16 makes the program wait for the GPU at most {WAITS_ALLOWED} times")
def syncs(machine: Machine) -> str:
    counter = CountWaits()
    machine.train("run", (counter,), fp16=True, **_long(machine))
    waits = len(counter.places) / len(WATCHED)
    print("\n".join(sorted(set(counter.places))))
    demand(waits <= WAITS_ALLOWED, f"{waits:.1f} waits a step")
    return f"{waits:.1f} waits a step"


@step(f"a GPU that trains stands still for at most {IDLE_ALLOWED:.0%} of the time")
def idle(machine: Machine) -> str:
    profiled = Profiled()
    machine.train("run", (profiled,), fp16=True, **_long(machine))
    share = profiled.idle_share()
    demand(share <= IDLE_ALLOWED, f"idle for {share:.0%}")
    return f"idle for {share:.0%}"


def _long(machine: Machine) -> dict[str, Any]:
    """Enough steps for `WATCHED`, and batches that give a GPU something to do."""
    batch = 4 if machine.smoke else 64
    return {"batch_size": batch, "num_images": STEPS_PER_EPOCH * batch, "epochs": 2, "eval_interval": 2}


@step(f"a trained model scores the same AP, within {NEAR_AP}, on CUDA and on the CPU, and more than nothing")
def evaluation(machine: Machine) -> str:
    trained = machine.train("run", epochs=2 if machine.smoke else 20)
    found = {}
    for device in ("cuda", "cpu"):
        options = [f"model.model_path={trained.folder / 'best_ckpt.pth'}", f"training.device={device}"]
        config = api.load_config(machine.work / "run.yaml", options, "evaluation")
        document = api.run(config, SilentReporter()).document
        found[device] = document["stages"]["evaluate_float"]["metrics"]["AP"]
    demand(abs(found["cuda"] - found["cpu"]) <= NEAR_AP, f"AP {found}")
    demand(machine.smoke or found["cpu"] > 0.05, f"AP {found}: nothing was learned, so equal scores say nothing")
    return f"AP {found['cuda']:.4f} on CUDA, {found['cpu']:.4f} on the CPU"


# --- what looks on ---------------------------------------------------------------------------------------------------


class Poison(Callback):
    """Makes the weights of this process NaN after its first step."""

    def after_step(self, trainer: Trainer) -> None:
        if trainer.step == 1:
            with torch.no_grad():
                next(trainer.detector.parameters()).fill_(math.nan)


class Watched(Callback):
    """Calls `begin` and `end` around the steps `WATCHED`."""

    done = 0

    def after_step(self, trainer: Trainer) -> None:
        self.done += 1
        if self.done == WATCHED.start:
            self.begin()
        if self.done == WATCHED.stop:
            self.end()

    def begin(self) -> None:
        raise NotImplementedError

    def end(self) -> None:
        raise NotImplementedError


class CountWaits(Watched):
    """Attributes:
    places: file and line of each wait.
    """

    def __init__(self) -> None:
        self.places: list[str] = []

    def begin(self) -> None:
        self._catcher = warnings.catch_warnings(record=True)
        self._caught = self._catcher.__enter__()
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")

    def end(self) -> None:
        torch.cuda.set_sync_debug_mode("default")
        self._catcher.__exit__(None, None, None)
        waits = [warning for warning in self._caught or () if "synchroniz" in str(warning.message)]
        self.places = [f"{Path(warning.filename).name}:{warning.lineno}" for warning in waits]


class Profiled(Watched):
    """What the GPU did."""

    def begin(self) -> None:
        torch.cuda.synchronize()
        self._profile = torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
        )
        self._profile.__enter__()

    def end(self) -> None:
        torch.cuda.synchronize()
        self._profile.__exit__(None, None, None)

    def idle_share(self) -> float:
        """Of the time between the first and the last thing that the GPU did."""
        events = self._profile.events() or []
        on_gpu = [
            e.time_range for e in events if e.device_type == torch.autograd.DeviceType.CUDA and not e.is_user_annotation
        ]
        return idle_share([(each.start, each.end) for each in on_gpu])


def idle_share(spans: list[tuple[float, float]]) -> float:
    """Of the time from the first start to the last end, the share that no span covers; spans may overlap."""
    demand(bool(spans), "the profiler saw nothing on the GPU")
    busy, reached = 0.0, -math.inf
    for start, end in sorted(spans):
        busy += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return 1 - busy / (reached - min(spans)[0])


# --- running ---------------------------------------------------------------------------------------------------------


def one_rank(machine: Machine, config: Path, poisoned: str) -> None:
    """A process of `train_in_two`: its last words go to a file of its own, since torchrun may end it for its peer's end."""
    number = int(os.environ["RANK"])
    try:
        api.run(api.load_config(config), SilentReporter(), [Poison()] if str(number) == poisoned else [])
        said = "finished"
    except StdetError as error:
        said = str(error)
    (machine.work / f"rank{number}").write_text(said, encoding="utf-8")


def verdict_of(machine: Machine, one: Step) -> str:
    there = torch.cuda.device_count()
    if there < one.devices and (one.devices == 1 or there):  # two processes work without CUDA as well, by gloo
        return f"SKIP needs {one.devices} CUDA device{'s' * (one.devices > 1)}, there {'is' if there == 1 else 'are'} {there}"
    try:
        return f"PASS {one.run(machine)}"
    except Skipped as reason:
        return f"SKIP {reason}"
    except Failed as reason:
        return f"FAIL {reason}"
    except Exception as error:
        traceback.print_exc()
        return f"FAIL {type(error).__name__}: {error}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", nargs="?", choices=STEPS)
    parser.add_argument("--list", action="store_true", help="the steps, and what each must show")
    parser.add_argument("--smoke", action="store_true", help="in miniature")
    parser.add_argument("--work", type=Path, help="an empty folder; gets the file `verdict`")
    parser.add_argument("--rank-of", nargs=2, metavar=("CONFIG", "POISONED"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.list:
        print("\n".join(f"{name:12s} {one.shows}" for name, one in STEPS.items()))
        return
    if args.work is None or not (args.step or args.rank_of):
        parser.error("give --list, or --work and a step")
    machine = Machine(args.work, args.smoke)
    if args.rank_of:
        one_rank(machine, Path(args.rank_of[0]), args.rank_of[1])
        return
    print(f"must show: {STEPS[args.step].shows}", flush=True)
    verdict = " ".join(verdict_of(machine, STEPS[args.step]).split())
    print(verdict)
    (machine.work / "verdict").write_text(verdict + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
