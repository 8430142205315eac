"""Export: parity is checked, metadata is complete, the model is left alone, files are all or nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from stdet.errors import ArtifactError, ExportError
from stdet.export.metadata import read_provenance, read_spec
from stdet.export.onnx import OPSET, TOLERANCE, export_onnx
from stdet.interfaces.detector import Candidates, Detector, Targets
from stdet.structures import DetectorSpec, Preprocess


class TwoHeads(Detector):
    """BatchNorm, nearest upsampling, two outputs; `planted` makes the traced graph differ from eager."""

    output_names = ("scores", "boxes")

    def __init__(self, planted: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        preprocess = Preprocess(16, 24, "letterbox", color_mode="bgr", mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0))
        self.spec = DetectorSpec("two", "family", ("cat", "dog"), preprocess, "coding", (8, 16), {"width_mult": 0.5})
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.heads = nn.ModuleList([nn.Conv2d(8, 2, 1), nn.Conv2d(8, 4, 1)])
        self.planted = planted

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        x = self.stem(images)
        x = nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")
        return tuple(head(x) for head in self.heads)

    def loss(self, raw: Any, targets: Targets, *, augmentation_closed: bool = False) -> dict[str, Tensor]:
        raise NotImplementedError

    def export_outputs(self, raw: Any) -> tuple[Tensor, ...]:
        scores, boxes = (r.flatten(2).transpose(1, 2) for r in raw)
        return scores.sigmoid(), boxes + (0.5 if self.planted and torch.jit.is_tracing() else 0.0)

    def decode(self, outputs: Any, input_size: tuple[int, int] | None = None) -> Candidates:
        raise NotImplementedError

    def class_dependent_keys(self) -> frozenset[str]:
        return frozenset()


def test_the_file_says_what_it_is_and_computes_what_torch_computes(tmp_path: Path) -> None:
    model = TwoHeads()
    model.stem[1].running_mean += 0.3
    report = export_onnx(model, tmp_path / "m.onnx", provenance={"checkpoint": "best.pth"})
    loaded = onnx.load(tmp_path / "m.onnx")
    assert [o.version for o in loaded.opset_import] == [OPSET]
    assert not {n.op_type for n in loaded.graph.node} & {"BatchNormalization", "Shape", "Identity", "Constant"}
    assert report.outputs == {"scores": [1, 384, 2], "boxes": [1, 384, 4]}
    assert report.max_deviation < 1e-5
    assert read_spec(tmp_path / "m.onnx") == model.spec
    provenance = read_provenance(tmp_path / "m.onnx")
    assert provenance["checkpoint"] == "best.pth"
    assert {"torch", "onnx", "stdet-core"} == provenance["made_with"].keys()
    images = torch.rand(1, 3, 16, 24)
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = model.eval().export_outputs(model(images))
    for want, got in zip(expected, session.run(None, {"input": images.numpy()}), strict=True):
        np.testing.assert_allclose(got, want.numpy(), atol=1e-5)


def test_exporting_leaves_the_model_as_it_was_and_is_reproducible(tmp_path: Path) -> None:
    model = TwoHeads().train().to(memory_format=torch.channels_last)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    one, other = (export_onnx(model, tmp_path / name) for name in ("a.onnx", "b.onnx"))
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert model.stem[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert one.sha256 == other.sha256


class Contrast(TwoHeads):
    """What differs from the image's mean, magnified: of an image of one colour nothing but rounding is left."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        x = self.stem(images)
        return tuple(head(1e4 * (x - x.mean((2, 3), keepdim=True))) for head in self.heads)


def test_rounding_where_large_numbers_cancel_is_no_fault_of_the_graph(tmp_path: Path) -> None:
    assert export_onnx(Contrast(), tmp_path / "m.onnx").max_deviation < 1e-5


class Sensitive(TwoHeads):
    """The last digits of a float32, magnified to the whole range."""

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.sin(3e3 * x) for x in super().forward(images))


def test_a_network_may_deviate_by_what_rounding_of_its_input_does_to_it(tmp_path: Path) -> None:
    assert TOLERANCE < export_onnx(Sensitive(), tmp_path / "m.onnx").max_deviation < 0.1
    with pytest.raises(ExportError, match="output `boxes` of the ONNX graph is off by"):
        export_onnx(Sensitive(planted=True), tmp_path / "planted.onnx")


def test_a_graph_that_computes_something_else_is_not_kept(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="output `boxes` of the ONNX graph is off by"):
        export_onnx(TwoHeads(planted=True), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_not_ours_have_no_spec_and_damaged_ones_are_errors(tmp_path: Path) -> None:
    export_onnx(TwoHeads(), tmp_path / "m.onnx")
    model = onnx.load(tmp_path / "m.onnx")
    properties = {p.key: p for p in model.metadata_props}
    properties["stdet.spec"].value = "{"
    onnx.save(model, tmp_path / "damaged.onnx")
    with pytest.raises(ArtifactError, match="damaged"):
        read_spec(tmp_path / "damaged.onnx")
    properties["stdet.format"].value = "99"
    onnx.save(model, tmp_path / "newer.onnx")
    with pytest.raises(ArtifactError, match="format 99"):
        read_spec(tmp_path / "newer.onnx")
    properties["stdet.provenance"].value = "{"
    onnx.save(model, tmp_path / "provenance.onnx")
    with pytest.raises(ArtifactError, match=r"stdet\.provenance is damaged"):
        read_provenance(tmp_path / "provenance.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "foreign.onnx")
    assert read_spec(tmp_path / "foreign.onnx") is None
    assert read_provenance(tmp_path / "foreign.onnx") == {}
    (tmp_path / "text.onnx").write_text("no")
    with pytest.raises(ArtifactError, match=r"text\.onnx"):
        read_spec(tmp_path / "text.onnx")
