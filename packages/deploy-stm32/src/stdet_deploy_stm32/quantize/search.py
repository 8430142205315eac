"""The search of `full_auto`: methods first, then what improves the best one and is still int8, then int16 activations.

Every finished trial is a file of its own in the journal, named by the hash of all that decides its score, so a search
that was stopped goes on where it was, and a changed model, image or option never meets an old score.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnxruntime

from stdet.artifacts import sha256_file, write_json
from stdet.errors import ArtifactError, QuantizationError
from stdet.interfaces.deploy import CalibrationData, Evaluator, Progress
from stdet.structures import Table
from stdet_deploy_stm32 import __version__
from stdet_deploy_stm32.onnx_graph.view import load_model, read_graph
from stdet_deploy_stm32.quantize import steps
from stdet_deploy_stm32.quantize.inspection import SqnrMeter, rank
from stdet_deploy_stm32.quantize.int8 import make_int8, save_int8
from stdet_deploy_stm32.quantize.options import read_options
from stdet_deploy_stm32.quantize.pictures import plot_search
from stdet_deploy_stm32.quantize.section import GeneralQuantization

log = logging.getLogger(__name__)

TRIAL_FORMAT = "stdet.trial/1"
_INT16_OPSET = 21


@dataclass(frozen=True)
class Found:
    """Attributes:
    config: the `quantization` section of the winner.
    document: all trials, JSON-able.
    table: the same for people.
    """

    config: GeneralQuantization
    document: dict[str, Any]
    table: Table


def candidates() -> dict[str, dict[str, Any]]:
    """The int8 recipes by name: what each changes in the `quantization` section."""
    return {name: {"onnx_quant_parameters": {"calibrate_method": name}} for name in steps.methods()}


def search(
    model: Path,
    folder: Path,
    calibration: CalibrationData,
    config: GeneralQuantization,
    evaluator: Evaluator,
    progress: Progress | None = None,
) -> Found:
    """Find the recipe with the fewest int16 bytes that loses at most `config.max_drop` points against float.

    All methods are scored. What follows is tried on the best one, and only until the budget holds: what the steps try
    (`Step.tries`, then `Step.int16_tries`), then int16 for the tensors that a ranking names. Writes `search.json` and
    `search.png` into `folder`. Scores at most `iterative_quant_parameters.max_trials` models. When nothing is within the
    budget, the best of what was tried is returned: whoever asked judges it.

    Raises:
        QuantizationError: no method goes with the options of the config.
    """
    run = _Search(model, folder, calibration, config, evaluator, progress)
    floating = run.score("float", lambda: evaluator.score(model), {})["score"]
    assert config.max_drop is not None  # `modes` asks for it
    target = floating - config.max_drop / 100
    for label, changes in candidates().items():
        run.attempt(label, changes)
    if not run.trials:
        raise QuantizationError("no method goes with the options of the config: " + "; ".join(run.left_out))
    if run.best()["score"] < target:
        _improve(run, run.best(), target)
    best = run.best()
    for spend in (_share_int16, _widen):
        if run.best()["score"] < target:
            spend(run, best, target)
    good = [t for t in run.trials if t["score"] >= target]
    chosen = min(good, key=lambda t: (t["int16_share"], -t["score"])) if good else run.best()
    document = {
        "format": "stdet.search/1",
        "metric": evaluator.metric,
        "float": floating,
        "max_drop": config.max_drop,
        "within_budget": bool(good),
        "chosen": chosen["label"],
        "trials": run.trials,
        "left_out": run.left_out,
    }
    write_json(folder / "search.json", document)
    plot_search(run.trials, floating, config.max_drop, evaluator.metric, folder / "search.png")
    return Found(changed(config, chosen["changes"]), document, _table(document))


def _improve(run: _Search, best: dict[str, Any], target: float) -> None:
    """The best recipe with what costs the device nothing, the cheapest first."""
    tries = sorted((t for step in steps.STEPS for t in step.tries), key=lambda t: t.seconds)
    for extra in (t.extra for t in tries):
        if run.left() and any(getattr(run.config.onnx_extra_options, k) != v for k, v in extra.items()):
            trial = run.attempt(" + ".join((best["label"], *extra)), _with_extra(best["changes"], extra))
            if trial is not None and trial["score"] >= target:
                return


def _share_int16(run: _Search, best: dict[str, Any], target: float) -> None:
    """The best recipe with what spends int16 bytes, more and more."""
    most = run.config.iterative_quant_parameters.max_int16_share
    for extra in (e for step in steps.STEPS for e in step.int16_tries(most)):
        if not run.left():
            return
        label = " + ".join((best["label"], *(f"{key} {value:g}" for key, value in extra.items())))
        trial = run.attempt(label, _with_extra(best["changes"], extra) | _opset_21(run.config))
        if trial is None or (trial["int16_share"] <= most and trial["score"] >= target):
            return
        if trial["int16_share"] > most:
            run.drop(trial)


def _widen(run: _Search, best: dict[str, Any], target: float) -> None:
    """int16 for the worst 1, 2, 4, ... tensors of the best recipe, then halve the last step."""
    parameters = run.config.iterative_quant_parameters
    order = run.ranking(best)
    low, high, count = 0, None, 1
    while run.left() and order:
        trial = run.trial(f"{best['label']} + {count} int16", _int16(best["changes"], run.config, order[:count]))
        if trial["int16_share"] > parameters.max_int16_share:
            run.drop(trial)
            return
        if trial["score"] >= target:
            high = count
            break
        low = count
        if count == len(order):
            return
        count = min(2 * count, len(order))
    while high is not None and high - low > 1 and run.left():
        count = (low + high) // 2
        trial = run.trial(f"{best['label']} + {count} int16", _int16(best["changes"], run.config, order[:count]))
        low, high = (low, count) if trial["score"] >= target else (count, high)


def _int16(changes: dict[str, Any], config: GeneralQuantization, tensors: list[str]) -> dict[str, Any]:
    """`changes` with int16 for `tensors` beside the overrides that the config has."""
    given = [list(entry) for entry in config.onnx_extra_options.activations_tensor_override or ()]
    named = {entry[0] for entry in given}
    override = given + [[name, {"quant_type": "Int16"}] for name in tensors if name not in named]
    return _with_extra(changes, {"activations_tensor_override": override}) | _opset_21(config)


def _with_extra(changes: dict[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    return merged(changes, {"onnx_extra_options": dict(extra)})


def _opset_21(config: GeneralQuantization) -> dict[str, Any]:
    return {"target_opset": max(_INT16_OPSET, config.target_opset)}


@dataclass
class _Search:
    model: Path
    folder: Path
    calibration: CalibrationData
    config: GeneralQuantization
    evaluator: Evaluator
    progress: Progress | None
    trials: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.base = {
            "float_sha256": sha256_file(self.model),
            "calibration_sha256": self.calibration.sha256,
            "evaluation_sha256": self.evaluator.sha256,
            "metric": self.evaluator.metric,
            "versions": [__version__, onnxruntime.__version__, np.__version__],
        }
        if library := steps.libraries().get(self.config.quantizer):
            library.load()
            self.base[library.name] = library.version()

    def left(self) -> int:
        return self.config.iterative_quant_parameters.max_trials - len(self.trials)

    def best(self) -> dict[str, Any]:
        """Of all trials; of equal ones the one with fewer int16 bytes."""
        return max(self.trials, key=lambda t: (t["score"], -t["int16_share"]))

    def attempt(self, label: str, changes: dict[str, Any]) -> dict[str, Any] | None:
        """As `trial`; None, and noted, when these options don't go with those of the config or with each other."""
        try:
            read_options(changed(self.config, changes))
        except QuantizationError as error:
            self.left_out.append(f"{label}: {error.message}")
            return None
        return self.trial(label, changes)

    def trial(self, label: str, changes: dict[str, Any]) -> dict[str, Any]:
        """Quantize with `changes` and score, unless the journal knows the score.

        Raises:
            QuantizationError: `max_trials` is used up.
        """
        if self.left() <= 0:
            raise QuantizationError(
                f"iterative_quant_parameters.max_trials {len(self.trials)} is less than the int8 recipes to compare",
                f"set it to {len(candidates())} or more",
            )
        config = changed(self.config, changes)
        found = self.score(label, lambda: self._measure(config), _decides(config))
        done = found | {"label": label, "changes": changes}
        self.trials.append(done)
        log.info("%s: %s %.4f, int16 %.1f %%", label, self.evaluator.metric, done["score"], 100 * done["int16_share"])
        if self.progress is not None:
            self.progress(len(self.trials), None)
        return done

    def drop(self, trial: dict[str, Any]) -> None:
        self.trials = [t for t in self.trials if t is not trial]

    def _measure(self, config: GeneralQuantization) -> dict[str, Any]:
        self.folder.mkdir(parents=True, exist_ok=True)
        started = time.perf_counter()
        with TemporaryDirectory(prefix=".search_", dir=self.folder) as scratch:
            path = Path(scratch) / "trial.onnx"
            save_int8(make_int8(self.model, self.calibration, config), path)
            share = int16_share(path)
            return {
                "score": self.evaluator.score(path),
                "int16_share": share,
                "seconds": round(time.perf_counter() - started, 1),
            }

    def score(self, label: str, measure: Callable[[], Any], decides: dict[str, Any]) -> dict[str, Any]:
        """What `measure` returns, or what the journal remembers of it."""
        key = hashlib.sha256(json.dumps(self.base | decides, sort_keys=True).encode()).hexdigest()
        path = self.evaluator.journal / f"{key}.json" if self.evaluator.journal else None
        if path is not None and path.is_file():
            return _remembered(path)
        value = measure()
        result = value if isinstance(value, dict) else {"score": value}
        if path is not None:
            write_json(path, {"format": TRIAL_FORMAT, "label": label, "result": result, "of": self.base | decides})
        return result

    def ranking(self, best: dict[str, Any]) -> list[str]:
        """Activations by the damage that each does alone, worst first, under the recipe of `best`."""
        config = changed(self.config, best["changes"])
        count = self.config.iterative_quant_parameters.inspection_images

        def measure() -> dict[str, Any]:
            made = make_int8(self.model, self.calibration, config)
            effects = rank(made.floating, made.inside, SqnrMeter(made.floating, self.calibration, count))
            return {"order": [e.tensor for e in effects if e.kind == "activation"]}

        return list(self.score("ranking", measure, _decides(config) | {"ranking_images": count})["order"])


def _remembered(path: Path) -> dict[str, Any]:
    """Raises:
    ArtifactError: the journal's file is damaged.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["format"] == TRIAL_FORMAT:
            return dict(document["result"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"cannot read the search journal {path}: {error}", "delete the file") from error
    raise ArtifactError(f"{path} is no search journal of format {TRIAL_FORMAT}", "delete the file")


def _decides(config: GeneralQuantization) -> dict[str, Any]:
    """The keys that decide what a quantized file computes."""
    apart = {
        "operating_mode",
        "export_dir",
        "max_drop",
        "max_drop_metric",
        "allow_overlap",
        "iterative_quant_parameters",
    }
    return {"options": config.model_dump(mode="json", exclude=apart)}


def changed(config: GeneralQuantization, changes: dict[str, Any]) -> GeneralQuantization:
    """A validated copy of a pydantic section with nested `changes`."""
    return type(config).model_validate(merged(config.model_dump(), changes))


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with the values of `changes`, section by section."""
    result = dict(base)
    for key, value in changes.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


def int16_share(path: Path) -> float:
    """Share of the activation bytes of a QDQ file that are int16, 0..1."""
    graph = read_graph(load_model(path))
    names = {n for layer in graph.layers for n in layer.outputs} | set(graph.inputs)
    sizes = {name: graph.size(name) for name in names if name in graph.shapes and name not in graph.constants}
    wide = sum(size for name, size in sizes.items() if graph.bits.get(name, 8) == 16)
    return wide / max(sum(sizes.values()), 1)


def _table(document: dict[str, Any]) -> Table:
    rows = [
        [
            trial["label"] + (" (chosen)" if trial["label"] == document["chosen"] else ""),
            f"{trial['score']:.4f}",
            f"{100 * (document['float'] - trial['score']):+.2f}",
            f"{100 * trial['int16_share']:.1f} %",
        ]
        for trial in document["trials"]
    ]
    columns = ["recipe", document["metric"], "points lost", "int16 bytes"]
    return Table(f"search, float {document['float']:.4f}, budget {document['max_drop']:g} points", columns, rows)
