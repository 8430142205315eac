"""Opening the data of a run: what its readers have to say is shown, and what would fail later fails now."""

from __future__ import annotations

from stdet.evaluation.coco import check_scorable, ground_truth_sha256
from stdet.interfaces.dataset import DetectionDataset
from stdet.stages.run import Run
from stdet.structures import DetectorSpec


def open_for_training(run: Run) -> DetectionDataset:
    """The training set. Without a single object it may be trained on, but it is said."""
    dataset = run.builder.dataset("train", run.builder.class_names())
    _tell(run, "train", dataset)
    annotations = (dataset.annotation(index) for index in range(len(dataset)))
    if all(a.ignore.all() for a in annotations):
        run.reporter.note("the training set has no object: the model can learn nothing but background")
    return dataset


def open_for_scoring(run: Run, split: str, spec: DetectorSpec) -> DetectionDataset:
    """A split to score on.

    Raises:
        DataError: its faults, or it has no object to score.
    """
    dataset = run.builder.dataset(split, spec.class_names, spec=spec)
    _tell(run, split, dataset)
    check_scorable(dataset, split)
    return dataset


def _tell(run: Run, split: str, dataset: DetectionDataset) -> None:
    """Its notes, and whether it is what an earlier start of the run had; its fingerprint goes into the record."""
    for note in dataset.notes:
        run.reporter.note(note)
    found = {
        "images": len(dataset),
        "classes": list(dataset.class_names),
        "ground_truth_sha256": ground_truth_sha256(dataset),
    }
    if run.record.data.setdefault(split, found) != found:
        run.reporter.note(f"the {split} set isn't what it was when the run was begun")
