"""Averaging, loading and precision."""

from __future__ import annotations

import math
import multiprocessing
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from stdet.errors import ModelError
from stdet.interfaces.detector import Candidates, Detector, Targets
from stdet.nn.distributed import is_main, mean_over_ranks, rank, world_size
from stdet.nn.ema import ModelEma
from stdet.nn.precision import choose_precision, cpu_has_bfloat16
from stdet.nn.weights import load_weights
from stdet.structures import DetectorSpec, Preprocess


class Small(Detector):
    """A convolution, a norm and a class head."""

    output_names = ("output",)

    def __init__(self, num_classes: int = 2, width: int = 4) -> None:
        super().__init__()
        self.spec = DetectorSpec("small", "small", tuple("abcdef"[:num_classes]), Preprocess(8, 8), "none", (8,))
        self.body = nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width))
        self.head = nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return (self.head(self.body(images).mean((2, 3))),)

    def loss(self, raw: Any, targets: Targets, *, augmentation_closed: bool = False) -> dict[str, Tensor]:
        return {"total": raw[0].sum()}

    def export_outputs(self, raw: Any) -> tuple[Tensor, ...]:
        return tuple(raw)

    def decode(self, outputs: Any, input_size: tuple[int, int] | None = None) -> Candidates:
        raise NotImplementedError

    def class_dependent_keys(self) -> frozenset[str]:
        return frozenset({"head.weight", "head.bias"})


def test_the_average_follows_its_closed_form_in_every_floating_entry() -> None:
    model = Small()
    ema = ModelEma(model, decay=0.9, ramp=5)
    expected = {k: v.clone() for k, v in model.state_dict().items()}
    for n in range(1, 8):
        with torch.no_grad():
            for value in model.state_dict().values():
                value.add_(1 if value.is_floating_point() else 3)
        ema.update(model)
        decay = 0.9 * (1 - math.exp(-n / 5))
        for key, value in model.state_dict().items():
            if value.is_floating_point():
                expected[key] = decay * expected[key] + (1 - decay) * value
            else:
                expected[key] = value.clone()
    assert ema.updates == 7
    for key, value in ema.model.state_dict().items():
        torch.testing.assert_close(value, expected[key])
    assert not any(p.requires_grad for p in ema.model.parameters())


def test_the_average_goes_on_bit_for_bit_from_its_saved_state() -> None:
    model = Small()
    ema = ModelEma(model)

    def train(*averages: ModelEma) -> None:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        for one in averages:
            one.update(model)

    for _ in range(5):
        train(ema)
    other = ModelEma(Small())
    other.load_state(ema.model.state_dict(), ema.updates)
    train(ema, other)
    assert other.updates == ema.updates == 6
    for key, value in ema.model.state_dict().items():
        assert torch.equal(value, other.model.state_dict()[key])


def test_an_update_of_the_average_is_a_handful_of_calls_whatever_the_number_of_layers() -> None:
    class Calls(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.count = 0

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.count += 1
            return function(*args, **(kwargs or {}))

    model = Small()
    model.body = nn.Sequential(nn.Conv2d(3, 4, 3), *(nn.BatchNorm2d(4) for _ in range(20)))
    ema = ModelEma(model)
    ema.update(model)
    with Calls() as calls:
        ema.update(model)
    assert calls.count <= 3


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"model": s, "epoch": 3},
        lambda s: {"state_dict": s},
        lambda s: {"model": {f"module.{k}": v for k, v in s.items()}},
    ],
    ids=["bare", "model", "state_dict", "module."],
)
def test_every_published_layout_of_a_checkpoint_loads(tmp_path: Path, wrap: Callable[[dict[str, Tensor]], Any]) -> None:
    source, target = Small(), Small()
    torch.save(wrap(source.state_dict()), tmp_path / "w.pth")
    report = load_weights(target, tmp_path / "w.pth")
    assert report.loaded == len(source.state_dict())
    assert not report.skipped
    for key, value in source.state_dict().items():
        assert torch.equal(value, target.state_dict()[key])


def test_heads_of_another_class_count_start_fresh_and_are_reported(tmp_path: Path) -> None:
    torch.save(Small(5).state_dict(), tmp_path / "w.pth")
    target = Small(2)
    fresh = target.head.weight.clone()
    report = load_weights(target, tmp_path / "w.pth")
    assert set(report.skipped) == {"head.weight", "head.bias"}
    assert "start fresh" in report.summary()
    assert torch.equal(target.head.weight, fresh)
    with pytest.raises(ModelError, match="other shapes: head"):
        load_weights(target, tmp_path / "w.pth", allow_skipped=False)


def test_priors_of_a_file_are_not_taken_and_counters_may_be_missing(tmp_path: Path) -> None:
    state = Small().state_dict()
    del state["body.1.num_batches_tracked"]
    torch.save(state | {"priors": torch.ones(3, 4)}, tmp_path / "w.pth")
    with_priors, without = Small(), Small()
    with_priors.register_buffer("priors", torch.zeros(7, 4))
    for target in (with_priors, without):
        assert load_weights(target, tmp_path / "w.pth").loaded == len(state)
        assert torch.equal(target.state_dict()["head.weight"], state["head.weight"])
    assert not with_priors.state_dict()["priors"].any()
    torch.save(state, tmp_path / "w.pth")
    load_weights(with_priors, tmp_path / "w.pth")


def test_weights_of_another_model_are_an_error(tmp_path: Path) -> None:
    state = Small().state_dict()
    del state["body.0.weight"]
    torch.save(state | {"neck.weight": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"missing: body\.0\.weight; not in this model: neck\.weight"):
        load_weights(Small(), tmp_path / "w.pth")
    torch.save(Small(width=6).state_dict(), tmp_path / "w.pth")
    with pytest.raises(ModelError, match="other shapes"):
        load_weights(Small(), tmp_path / "w.pth")


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_files_that_are_no_weights_are_refused_and_nothing_runs(tmp_path: Path) -> None:
    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Evil(tmp_path / "touched")))
    (tmp_path / "lfs.pth").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "empty.pth").touch()
    for name, message in (
        ("evil", "cannot read weights"),
        ("lfs", "Git LFS pointer"),
        ("list", "no state dict"),
        ("empty", "cannot read weights"),
        ("none", "no weights at"),
    ):
        with pytest.raises(ModelError, match=message):
            load_weights(Small(), tmp_path / f"{name}.pth")
    assert not (tmp_path / "touched").exists()


def test_precision_follows_the_processor() -> None:
    plain = choose_precision("cpu", False)
    assert (plain.dtype, plain.description) == (None, "float32")
    mixed = choose_precision("cpu", True)
    assert mixed.dtype == (torch.bfloat16 if cpu_has_bfloat16() else None)
    assert ("bfloat16" in mixed.description) or ("asked for" in mixed.description)
    assert not mixed.scaler.is_enabled()
    with mixed.autocast():
        out = nn.Linear(4, 4)(torch.zeros(1, 4))
    assert out.dtype == (torch.bfloat16 if mixed.dtype else torch.float32)


def test_two_processes_get_the_same_mean(tmp_path: Path) -> None:
    def member(number: int, said: Any) -> None:
        dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=number, world_size=2)
        mine = torch.tensor([1.0, 10.0]) * (1 + 2 * rank())
        mean = mean_over_ranks(mine)
        said.put((rank(), world_size(), is_main(), mine.tolist(), mean.tolist()))
        dist.destroy_process_group()

    context = multiprocessing.get_context("fork")  # a fresh interpreter would spend seconds on importing torch
    said = context.Queue()
    members = [context.Process(target=member, args=(number, said)) for number in range(2)]
    for process in members:
        process.start()
    answers = sorted(said.get(timeout=60) for _ in members)
    for process in members:
        process.join(60)
    assert answers == [(0, 2, True, [1, 10], [2, 20]), (1, 2, False, [3, 30], [2, 20])]


def test_one_process_is_its_own_main() -> None:
    assert (rank(), world_size(), is_main()) == (0, 1, True)
    assert mean_over_ranks(torch.tensor(3.0)) == 3
