"""The calibration doctor: each fault is planted and must be named; a sound set raises none."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stdet.config.schema import Dataset, Model, Preprocessing
from stdet.errors import DataError
from stdet.interfaces.dataset import DetectionDataset
from stdet.interfaces.family import ModelFamily
from stdet.interfaces.reporter import SilentReporter
from stdet.interfaces.target import Quantization
from stdet.quantizing.choice import Chosen
from stdet.quantizing.doctor import Check, approved, examine_files
from stdet.structures import Annotation, DetectorSpec, Preprocess

PREPROCESS = Preprocess(32, 48, mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0), color_mode="bgr")
SPEC = DetectorSpec("toy", "toy", ("a", "b"), PREPROCESS, "yolox", (32,))
FAMILY = ModelFamily("toy", "toy", PREPROCESS, "yolox", "cosine", False, 32, 32, "toy", (32,))


class Photos(DetectionDataset):
    """Seeded noise photographs in a folder, with the classes given."""

    class_names = ("a", "b")

    def __init__(self, folder: Path, seeds: list[int], labels: tuple[int, ...] = (0, 1)) -> None:
        folder.mkdir()
        self.paths, self.labels = [], labels
        for position, seed in enumerate(seeds):
            coarse = np.random.default_rng(seed).integers(0, 256, (8, 9, 3), np.uint8)
            self.paths.append(folder / f"{position}.png")
            Image.fromarray(coarse).resize((72, 64), Image.Resampling.BICUBIC).save(self.paths[-1])

    def __len__(self) -> int:
        return len(self.paths)

    def annotation(self, index: int) -> Annotation:
        count = len(self.labels)
        boxes = np.tile(np.array([[1, 1, 20, 20]], np.float32), (count, 1))
        return Annotation(
            index, self.paths[index], 64, 72, boxes, np.array(self.labels), np.zeros(count, bool), np.ones(count)
        )

    def read_image(self, index: int) -> np.ndarray:
        return np.asarray(Image.open(self.paths[index]))


def source(quantization: dict[str, Any] | None = None, **sections: Any) -> Any:
    """A config, and the splits that it names as `splits`."""
    splits: dict[str, DetectionDataset] = sections.get("splits", {})

    def dataset(split: str, *rest: Any) -> DetectionDataset:
        if split not in splits:
            raise DataError(f"no {split}")
        return splits[split]

    config = SimpleNamespace(
        dataset=Dataset(num_workers=0),
        quantization=Quantization(**quantization or {}),
        preprocessing=sections.get("preprocessing", Preprocessing()),
        model=sections.get("model", Model()),
        family=FAMILY,
    )
    return SimpleNamespace(config=config, dataset=dataset)


def verdicts(made: Any, chosen: Chosen, evaluation: DetectionDataset | None, known: bool = True) -> dict[str, Check]:
    found = examine_files(made, chosen, SPEC.class_names, PREPROCESS if known else None, evaluation, SilentReporter())
    return {check.name: check for check in found}


def test_a_sound_set_raises_nothing(tmp_path: Path) -> None:
    chosen = Chosen(Photos(tmp_path / "a", list(range(60))), np.arange(60), "here")
    found = verdicts(source(), chosen, Photos(tmp_path / "b", [100, 101]))
    assert {c.verdict for c in found.values()} == {"ok"}
    assert found.keys() == {"size", "duplicates", "classes", "preprocessing", "overlap"}


def test_few_images_copies_missing_classes_and_unknowns_are_named(tmp_path: Path) -> None:
    chosen = Chosen(Photos(tmp_path / "a", [1, 2, 2, 3], labels=(1,)), np.arange(4), "here")
    found = verdicts(source(), chosen, None, known=False)
    assert found["size"].verdict == "warning"
    assert "4 images" in found["size"].finding
    assert found["duplicates"].verdict == "warning"
    assert "1 copies" in found["duplicates"].finding
    assert found["classes"].verdict == "warning"
    assert found["classes"].finding.endswith(": a")
    assert found["overlap"].verdict == found["preprocessing"].verdict == "unknown"


def test_only_the_chosen_images_count(tmp_path: Path) -> None:
    photos = Photos(tmp_path / "a", [1, 1, 2])
    found = verdicts(source(), Chosen(photos, np.array([0, 2]), "here"), None)
    assert found["duplicates"].verdict == "ok"
    assert "2 images" in found["size"].finding


def test_generated_images_cannot_be_compared(tmp_path: Path) -> None:
    chosen = Chosen(Photos(tmp_path / "a", [1, 1]), np.arange(2), "here")
    chosen.whole.annotation = lambda index: SimpleNamespace(path=None, labels=np.array([0, 1]))  # type: ignore[assignment]
    found = verdicts(source(), chosen, Photos(tmp_path / "b", [1]))
    assert found["duplicates"].verdict == found["overlap"].verdict == "unknown"


def test_classes_of_a_bare_folder_are_those_of_equal_files_that_are_annotated(tmp_path: Path) -> None:
    folder = Photos(tmp_path / "a", [1, 2, 3], labels=())
    chosen = Chosen(folder, np.arange(3), "here", annotated=False)
    assert verdicts(source(), chosen, None)["classes"].verdict == "unknown"
    others = Photos(tmp_path / "b", [7, 8], labels=(0, 1))
    assert verdicts(source(splits={"train": others}), chosen, None)["classes"].verdict == "unknown"
    same = Photos(tmp_path / "c", [7, 2], labels=(1,))
    found = verdicts(source(splits={"val": same, "train": others}), chosen, None)["classes"]
    assert (found.verdict, found.examples) == ("warning", ("a",))
    both = Photos(tmp_path / "d", [3], labels=(0,))
    assert verdicts(source(splits={"val": same, "train": both}), chosen, None)["classes"].verdict == "ok"


def test_nobody_knows_the_classes_of_a_model_that_names_none(tmp_path: Path) -> None:
    chosen = Chosen(Photos(tmp_path / "a", [1]), np.arange(1), "here")
    found = examine_files(source(), chosen, (), None, None, SilentReporter())
    assert {c.name: c.verdict for c in found}["classes"] == "unknown"


def test_evaluation_images_are_refused_unless_asked_for(tmp_path: Path) -> None:
    chosen = Chosen(Photos(tmp_path / "a", [1, 2, 3]), np.arange(3), "here")
    evaluation = Photos(tmp_path / "b", [9, 2, 3])
    found = verdicts(source(), chosen, evaluation)
    with pytest.raises(DataError, match=r"2 of 3 calibration images are evaluation images: 1\.png, 2\.png") as caught:
        approved(tuple(found.values()))
    assert "allow_overlap" in caught.value.hint
    assert found["overlap"].examples == tuple(str(tmp_path / "a" / name) for name in ("1.png", "2.png"))
    allowed = verdicts(source({"allow_overlap": True}), chosen, evaluation)
    assert allowed["overlap"].verdict == "warning"
    assert [c.verdict for c in approved(tuple(allowed.values()))] == [c.verdict for c in allowed.values()]


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({"preprocessing": Preprocessing(color_mode="rgb")}, "color_mode is 'rgb', the model's 'bgr'"),
        ({"preprocessing": Preprocessing(mean=(0, 0, 0))}, "mean is"),
        ({"preprocessing": Preprocessing(resizing={"aspect_ratio": "letterbox"})}, "resize_mode is 'letterbox'"),
        ({"preprocessing": Preprocessing(rescaling={"scale": 0.5})}, "scale is 0.5"),
        ({"model": Model(input_shape=(3, 64, 48))}, "height is 64, the model's 32"),
    ],
)
def test_another_preprocessing_than_in_training_is_refused(
    tmp_path: Path, sections: dict[str, Any], named: str
) -> None:
    chosen = Chosen(Photos(tmp_path / "a", [1]), np.arange(1), "here")
    with pytest.raises(DataError) as caught:
        approved(tuple(verdicts(source(**sections), chosen, None).values()))
    assert named in caught.value.message
    assert verdicts(source(**sections), chosen, None, known=False)["preprocessing"].verdict == "unknown"
