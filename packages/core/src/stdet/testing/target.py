"""What every deploy target must do."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import torch

from stdet.errors import StdetError
from stdet.export.metadata import QUANTIZATION_KEY
from stdet.export.onnx import simplify
from stdet.interfaces.deploy import BenchReport, CalibrationData, DeployTarget
from stdet.interfaces.target import Quantization, TargetFacts, TargetSections
from stdet.testing.contract import Contract, catalogue, demand, shown

NOISE = 0.03
"""Share of the signal's power that int8 may add as noise, on a network of two layers."""


class TargetContract(Contract):
    """What every deploy target must do. Set `name`."""

    kind: ClassVar[str] = "targets"
    needs_tools: ClassVar[frozenset[str]] = frozenset()
    """Backends that need a tool or a board which may be missing: these may also refuse, with a hint."""

    def facts(self) -> TargetFacts:
        """What the target tells the config layer."""
        facts = catalogue().target(self.name)
        assert isinstance(facts, TargetFacts)
        return facts

    def quantization(self) -> Quantization:
        """The `quantization` section as it is when a config says nothing."""
        section = self.facts().section("quantization")()
        assert isinstance(section, Quantization)
        return section

    def build(self) -> DeployTarget:
        """The target, with every section as it is when a config says nothing."""
        facts = self.facts()
        sections = {name: section() for name, section in facts.sections.items()}
        target = catalogue().build("targets", self.name, TargetSections(**sections))  # type: ignore[arg-type]
        demand(isinstance(target, DeployTarget), "a DeployTarget", type(target).__name__)
        assert isinstance(target, DeployTarget)
        return target

    def model(self, tmp_path: Path) -> Path:
        """A small float ONNX model: input float32 (1, 3, 16, 16)."""
        torch.manual_seed(0)
        network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, 2, 1), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 1))
        path = tmp_path / "small.onnx"
        buffer = io.BytesIO()
        example = (torch.zeros(1, 3, 16, 16),)
        torch.onnx.export(network.eval(), example, buffer, dynamo=False, opset_version=17)  # type: ignore[arg-type]
        path.write_bytes(simplify(buffer.getvalue()).SerializeToString())
        return path

    def calibration(self, source: str = "noise", count: int = 4) -> CalibrationData:
        """Seeded images for `model`."""

        def image(index: int) -> np.ndarray:
            return np.random.default_rng(index).normal(0, 1, (1, 3, 16, 16)).astype(np.float32)

        return CalibrationData(image, count, "0" * 64, source)

    def test_it_has_the_name_it_is_registered_by(self) -> None:
        """`name` is the registered one: records and pages say it, and people look the board up by it."""
        demand(self.build().name == self.name, f"the name `{self.name}`", f"`{self.build().name}`")

    def test_default_backends_need_no_tool(self) -> None:
        """`default_backends` are some of `backends`, and none needs a tool: they run when a config names none."""
        facts = self.facts()
        other = set(facts.default_backends) - set(facts.backends)
        demand(not other, f"some of {shown(facts.backends)}", shown(sorted(other)))
        tools = set(facts.default_backends) & self.needs_tools
        demand(not tools, "backends that need no tool", shown(sorted(tools)))

    def test_every_backend_reports_what_its_latency_is(self, tmp_path: Path) -> None:
        """A backend answers with a `BenchReport` that JSON can hold, names itself, and says `none` for a latency it doesn't
        know; one that needs a tool may refuse instead, with a hint: measured and estimated numbers are never mixed."""
        target, model = self.build(), self.model(tmp_path)
        for backend in self.facts().backends:
            try:
                report = target.bench(model, backend)
            except StdetError as error:
                expected = f"a report from `{backend}`, or its name in `needs_tools` and an error with a hint"
                demand(backend in self.needs_tools and bool(error.hint), expected, f"{type(error).__name__}: {error}")
                continue
            demand(isinstance(report, BenchReport), "a BenchReport", type(report).__name__)
            try:
                json.dumps(dataclasses.asdict(report))
            except TypeError as error:
                demand(False, "values that JSON can hold", error)
            demand(report.backend == backend, f"backend `{backend}`", f"`{report.backend}`")
            said = f"latency_ms {report.latency_ms}, latency_kind `{report.latency_kind}`"
            known = (report.latency_ms is None) == (report.latency_kind == "none")
            demand(known, "a latency and its kind, or None and `none`", said)

    def test_an_unknown_backend_is_refused_with_the_known_ones(self, tmp_path: Path) -> None:
        """`bench` refuses a backend that it doesn't have with a StdetError that names those it has."""
        target, known = self.build(), self.facts().backends
        try:
            target.bench(self.model(tmp_path), "no_such_backend")
        except StdetError as error:
            demand(all(b in str(error) for b in known), f"an error that names {shown(known)}", f"`{error}`")
        else:
            demand(False, "a StdetError", "a report")

    def test_quantizing_leaves_a_file_that_answers_like_the_float_one(self, tmp_path: Path) -> None:
        """The int8 file of a network of two layers, run by onnxruntime, adds noise of at most 3 % of the signal's power, and
        some: more is another network, none is no int8. Real accuracy is for `max_drop` to judge."""
        import onnxruntime

        model, output = self.model(tmp_path), tmp_path / "int8.onnx"
        self.build().quantize(model, output, self.calibration(), self.quantization())
        sessions = [onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]) for path in (model, output)]
        name = sessions[0].get_inputs()[0].name
        image = next(iter(self.calibration().batches()))
        real, approximate = (session.run(None, {name: image})[0] for session in sessions)
        share = float(np.square(real - approximate).sum() / np.square(real - real.mean()).sum())
        demand(
            0 < share < NOISE, f"noise of more than 0 and less than {NOISE:.0%} of the signal's power", f"{share:.2%}"
        )

    def test_the_file_says_what_was_done(self, tmp_path: Path) -> None:
        """The file's metadata hold the result's `record` under `stdet.quantization`, JSON, and
        `record["calibration"]["fit_for_accuracy"]` is false for noise (`source` is `random`) and true for images: `evaluate`
        and `deploy` warn of it wherever the file goes."""
        model, target = self.model(tmp_path), self.build()
        for source, fit in (("noise", True), ("random", False)):
            output = tmp_path / source / "int8.onnx"
            record = target.quantize(model, output, self.calibration(source), self.quantization()).record
            stored = {p.key: p.value for p in onnx.load(output).metadata_props}.get(QUANTIZATION_KEY, "null")
            demand(json.loads(stored) == json.loads(json.dumps(record)), "the result's record", stored[:200])
            said = record.get("calibration", {}).get("fit_for_accuracy")
            demand(said is fit, f"fit_for_accuracy {fit} for images from `{source}`", said)

    def test_what_cannot_be_quantized_is_refused_and_leaves_no_file(self, tmp_path: Path) -> None:
        """Without images, with none, and for a file that is no model, `quantize` raises a StdetError and `output` is not
        there: half a file would be taken for a result."""
        target = self.build()
        model, output = self.model(tmp_path), tmp_path / "out" / "int8.onnx"
        (tmp_path / "broken.onnx").write_bytes(b"no model")
        for what, wrong, calibration in (
            ("no images", model, self.calibration(count=0)),
            ("no calibration", model, None),
            ("no model", tmp_path / "broken.onnx", self.calibration()),
        ):
            try:
                target.quantize(wrong, output, calibration, self.quantization())
            except StdetError:
                demand(not output.exists(), f"no file for {what}", output.name)
            else:
                demand(False, f"a StdetError for {what}", "a result")
