"""full_auto: what it picks, what it remembers, and that a kill loses nothing finished."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from stdet.errors import ArtifactError, QuantizationError
from stdet.interfaces.deploy import CalibrationData, Evaluator
from stdet_deploy_stm32.onnx_graph.session import new_session
from stdet_deploy_stm32.quantize.modes import Job, run_mode
from stdet_deploy_stm32.quantize.search import candidates, int16_share, merged
from stdet_deploy_stm32.quantize.section import Quantization

Section = Callable[..., Quantization]
Photos = Callable[..., CalibrationData]


class Judge:
    """Scores a model by the noise of its output against the float model: 1 - 10^(-dB/20), and counts the calls."""

    def __init__(self, floating: Path, photos: CalibrationData, journal: Path | None) -> None:
        self.calls = 0
        self.stop_after: int | None = None
        self.images = list(photos.batches())
        self.real = self.run(floating)
        self.evaluator = Evaluator(self.score, "AP50", "judge", journal)

    def run(self, path: Path) -> np.ndarray:
        session = new_session(path)
        return np.concatenate([session.run(None, {"image": image})[0] for image in self.images])

    def score(self, path: Path) -> float:
        if self.calls == self.stop_after:
            raise KeyboardInterrupt
        self.calls += 1
        found = self.run(path)
        return 1 - float(np.sqrt(np.square(found - self.real).sum() / np.square(self.real).sum()))


@pytest.fixture
def judge(saved: Path, photos: Photos, tmp_path: Path) -> Judge:
    return Judge(saved, photos(), tmp_path / "journal")


@pytest.fixture
def search(saved: Path, photos: Photos, section: Section, tmp_path: Path, judge: Judge) -> Callable[..., dict]:
    """Runs full_auto and returns the document of the search."""

    def run(max_drop: float, name: str = "out", **parameters: object) -> dict:
        config = section(
            operating_mode="full_auto",
            max_drop=max_drop,
            iterative_quant_parameters={"inspection_images": 2, "max_int16_share": 1.0} | parameters,
        )
        run_mode(Job(saved, tmp_path / name / "q.onnx", photos(), config, None, judge.evaluator))
        return json.loads((tmp_path / name / "search.json").read_text())

    return run


def test_within_a_wide_budget_the_best_int8_recipe_wins(search: Callable[..., dict], tmp_path: Path) -> None:
    found = search(50.0)
    assert found["within_budget"]
    assert {t["label"] for t in found["trials"]} == candidates().keys()
    assert found["chosen"] == max(found["trials"], key=lambda t: t["score"])["label"]
    assert found["float"] == 1.0
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"q.onnx", "search.json", "search.png"}
    record = json.loads(
        {p.key: p.value for p in onnx.load(tmp_path / "out" / "q.onnx").metadata_props}["stdet.quantization"]
    )
    assert record["search"] == found


def test_a_tighter_budget_costs_int16_and_no_more_than_needed(
    search: Callable[..., dict], tmp_path: Path, judge: Judge
) -> None:
    best = max(t["score"] for t in search(50.0)["trials"])
    budget = 100 * (1 - best) * 0.8
    found = search(budget, "tight")
    assert found["within_budget"]
    (chosen,) = (t for t in found["trials"] if t["label"] == found["chosen"])
    assert chosen["int16_share"] > 0
    good = [t for t in found["trials"] if t["score"] >= 1 - budget / 100]
    assert chosen["int16_share"] == min(t["int16_share"] for t in good)
    path = tmp_path / "tight" / "q.onnx"
    assert judge.score(path) == pytest.approx(chosen["score"], abs=1e-12)  # the file is the one that was scored
    assert int16_share(path) == chosen["int16_share"]
    kinds = {c.data_type for c in onnx.load(path).graph.initializer if c.name.endswith("zero_point")}
    assert TensorProto.INT16 in kinds


def test_an_impossible_budget_gives_the_best_there_is_and_says_so(search: Callable[..., dict]) -> None:
    found = search(0.0)
    assert not found["within_budget"]
    (chosen,) = (t for t in found["trials"] if t["label"] == found["chosen"])
    assert chosen["score"] == max(t["score"] for t in found["trials"])


def test_what_costs_the_device_nothing_comes_before_int16_and_nothing_comes_after_success(
    search: Callable[..., dict],
) -> None:
    hopeless = search(0.0, max_int16_share=0.2)
    labels = [t["label"] for t in hopeless["trials"]]
    best = max(hopeless["trials"][: len(candidates())], key=lambda t: t["score"])["label"]
    added = [label.removeprefix(f"{best} + ") for label in labels[len(candidates()) :]]
    free = ["BiasCorrection", "SequentialMSE", "SequentialMSE + BiasCorrection"]
    free = free if best == "Sensitivity" else ["ActivationAwareRanges", *free]
    assert added[: len(free)] == free
    assert all("16" in label for label in added[len(free) :])
    improved = [t for t in hopeless["trials"] if t["label"] in {f"{best} + {name}" for name in free}]
    (before,) = (t for t in hopeless["trials"] if t["label"] == best)
    first = next(t for t in improved if t["score"] > before["score"])
    found = search(100 * (1 - first["score"]), "enough")
    assert found["within_budget"]
    assert [t["label"] for t in found["trials"]][-1] == found["chosen"] == first["label"]


def test_int16_share_is_tried_within_the_allowed_share(search: Callable[..., dict]) -> None:
    found = search(0.0, max_int16_share=0.4)
    tried = [t for t in found["trials"] if "Int16Share" in t["label"]]
    if any("Int16Share" in text for text in found["left_out"]):  # the best method has none
        assert not tried
    else:
        assert tried
    assert all(t["int16_share"] <= 0.4 for t in tried)


def test_a_real_kill_loses_nothing_finished_and_leaves_nothing_that_looks_finished(saved: Path, tmp_path: Path) -> None:
    """SIGKILL in the middle of the fourth trial, when its file is written and being scored."""

    def run(name: str, journal: str, kill_at: int) -> int:
        words = [str(saved), str(tmp_path / name / "q.onnx"), str(tmp_path / journal), str(kill_at)]
        return subprocess.run([sys.executable, "-c", SEARCH_TO_KILL, *words], check=False, timeout=300).returncode

    def scored(journal: str) -> list[str]:
        return (tmp_path / f"{journal}.calls").read_text().split()

    assert run("killed", "journal", 4) == -signal.SIGKILL
    finished = list((tmp_path / "journal").iterdir())
    assert len(scored("journal")) == len(finished) == 3
    assert all(json.loads(path.read_text())["result"]["score"] >= 0 for path in finished)
    visible = [
        p for p in (tmp_path / "killed").rglob("*") if not p.relative_to(tmp_path / "killed").parts[0].startswith(".")
    ]
    assert not visible

    assert run("resumed", "journal", 0) == 0
    assert run("straight", "other", 0) == 0
    assert scored("journal") == scored("other")  # each model was scored to its end once, over both runs
    resumed, straight = (json.loads((tmp_path / name / "search.json").read_text()) for name in ("resumed", "straight"))
    for document in (resumed, straight):
        for trial in document["trials"]:
            del trial["seconds"]
    assert resumed == straight
    assert [
        numpy_helper.to_array(t).tobytes() for t in onnx.load(tmp_path / "resumed" / "q.onnx").graph.initializer
    ] == [numpy_helper.to_array(t).tobytes() for t in onnx.load(tmp_path / "straight" / "q.onnx").graph.initializer]


SEARCH_TO_KILL = """
import hashlib, os, signal, sys
from pathlib import Path
import numpy as np
from stdet_deploy_stm32.quantize.section import Quantization
from stdet.interfaces.deploy import CalibrationData, Evaluator
from stdet_deploy_stm32.onnx_graph.session import new_session
from stdet_deploy_stm32.quantize.modes import Job, run_mode

model, output, journal, kill_at = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
images = [np.random.default_rng(i).integers(0, 256, (1, 3, 16, 16)).astype(np.float32) for i in range(4)]
calls = 0

def run(path):
    session = new_session(path)
    return np.concatenate([session.run(None, {"image": image})[0] for image in images])

def score(path):
    global calls
    calls += 1
    if calls == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
    with open(f"{journal}.calls", "a") as log:
        log.write(hashlib.sha256(run(path).tobytes()).hexdigest() + "\\n")
    real = run(model)
    return 1 - float(np.sqrt(np.square(run(path) - real).sum() / np.square(real).sum()))

config = Quantization.model_validate(
    {"operating_mode": "full_auto", "max_drop": 0.0,
     "iterative_quant_parameters": {"inspection_images": 2, "max_trials": 10}}
)
data = CalibrationData(lambda i: images[i], len(images), "digest", "noise")
run_mode(Job(model, output, data, config, None, Evaluator(score, "AP50", "judge", journal)))
"""


def test_no_trial_beyond_the_int16_share_is_kept(search: Callable[..., dict]) -> None:
    found = search(0.0, max_int16_share=0.2)
    assert all(t["int16_share"] <= 0.2 for t in found["trials"])


def test_a_search_that_was_killed_goes_on_and_repeats_nothing(
    search: Callable[..., dict], judge: Judge, tmp_path: Path
) -> None:
    judge.stop_after = 3
    with pytest.raises(KeyboardInterrupt):
        search(0.0)
    assert not (tmp_path / "out" / "q.onnx").exists()
    assert not list((tmp_path / "out").iterdir())
    judge.stop_after = None
    resumed = search(0.0)
    calls = judge.calls
    assert calls == 1 + len(resumed["trials"])  # the float model and each trial, once over both runs
    assert search(0.0, "again") == resumed
    assert judge.calls == calls


def test_other_images_or_options_do_not_meet_old_scores(
    search: Callable[..., dict], judge: Judge, photos: Photos, saved: Path, section: Section, tmp_path: Path
) -> None:
    search(50.0)
    calls = judge.calls
    judge.evaluator = replace(judge.evaluator, sha256="another")
    search(50.0)
    assert judge.calls == 2 * calls
    config = section(operating_mode="full_auto", max_drop=50.0)
    run_mode(Job(saved, tmp_path / "o" / "q.onnx", photos(7), config, None, judge.evaluator))
    assert judge.calls == 3 * calls


def test_a_damaged_journal_is_named(search: Callable[..., dict], tmp_path: Path) -> None:
    search(50.0)
    path = next((tmp_path / "journal").iterdir())
    path.write_text("{")
    with pytest.raises(ArtifactError, match=path.name):
        search(50.0)


def test_no_more_is_tried_than_allowed(search: Callable[..., dict]) -> None:
    most = len(candidates()) + 1
    assert len(search(0.0, max_trials=most)["trials"]) == most


def test_too_few_trials_and_a_missing_budget_are_refused(
    search: Callable[..., dict], saved: Path, photos: Photos, section: Section, tmp_path: Path
) -> None:
    with pytest.raises(QuantizationError, match="max_trials"):
        search(1.0, max_trials=1)
    with pytest.raises(QuantizationError, match="under a budget"):
        run_mode(Job(saved, tmp_path / "q.onnx", photos(), section(operating_mode="full_auto"), None, None))


def test_merging_goes_into_sections_and_leaves_the_rest() -> None:
    base = {"a": {"b": 1, "c": 2}, "d": [1]}
    assert merged(base, {"a": {"b": 3}, "d": [2]}) == {"a": {"b": 3, "c": 2}, "d": [2]}
    assert base == {"a": {"b": 1, "c": 2}, "d": [1]}
