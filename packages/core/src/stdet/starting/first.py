"""From a data set to a first config that runs as it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stdet.artifacts import check_new, write_text
from stdet.config import Config, load_text
from stdet.data.source import DataSource
from stdet.datatools.check import check_dataset
from stdet.datatools.split import Shares, split_dataset
from stdet.datatools.splits import columns_of, open_with_all_classes, splits_of
from stdet.errors import DataError
from stdet.interfaces.advice import Proposal
from stdet.interfaces.dataset import DetectionDataset
from stdet.interfaces.published import published_weights
from stdet.interfaces.reporter import Reporter
from stdet.quantizing.data_check import calibration_findings
from stdet.registry import Catalogue
from stdet.starting.network import Network, choose, hard_share
from stdet.starting.plan import plan
from stdet.starting.text import config_text
from stdet.structures import Table

SHARES = Shares(val=0.2, test=0.1)
"""How a set that isn't split is divided."""


@dataclass(frozen=True)
class Wishes:
    """Attributes:
    board: that shall hold the network; None knows no limit.
    model: registered; None chooses.
    latency_ms: the longest that an inference may take.
    """

    board: str | None = None
    model: str | None = None
    latency_ms: float | None = None


@dataclass(frozen=True)
class FirstConfig:
    """Attributes:
    entries: all keys with their reasons, in the order of the file.
    check: the doctor's document on the data that it names.
    split: folder of the split that was made; None when the set had one.
    """

    entries: tuple[Proposal, ...]
    check: dict[str, Any]
    split: Path | None

    def table(self) -> Table:
        rows = [[entry.key, str(entry.value), entry.reason] for entry in self.entries if entry.reason]
        return Table("proposed", ["key", "value", "because"], rows)

    def document(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "format": "stdet.init/1",
            "split": str(self.split) if self.split else None,
            "entries": [{"key": e.key, "value": e.value, "reason": e.reason} for e in self.entries],
            "data_check": self.check,
        }


def write_first_config(
    data: Config, catalogue: Catalogue, wishes: Wishes, output: Path, reporter: Reporter
) -> FirstConfig:
    """Split the set if need be, look at it, choose, and write `output`.

    Raises:
        StdetError: no training images, no model that fits, or files that exist.
    """
    check_new(output)
    source = DataSource(data, catalogue)
    train = _training_set(source)
    names, columns = train.class_names, columns_of(train)
    network = choose(
        source,
        names,
        columns,
        reporter,
        model=wishes.model,
        board=wishes.board,
        latency_ms=wishes.latency_ms,
    )
    small = hard_share(source, network, names, columns)
    data, folder = _split(data, catalogue, output, reporter)
    images = len(_training_set(DataSource(data, catalogue)))
    entries = plan(data, names, images, network, small, wishes.board, catalogue)
    text = config_text([f"{images} training images; written by stdet init."], entries, _weights(network))
    config = load_text(text, str(output), (), catalogue)
    source = DataSource(config, catalogue)
    check = check_dataset(source, splits_of(source), True, calibration_findings, reporter)
    write_text(output, text)
    return FirstConfig(tuple(entries), check, folder)


def _training_set(source: DataSource) -> DetectionDataset:
    """With the classes of all splits."""
    for opened in open_with_all_classes(source, splits_of(source)):
        if opened.name == "train" and len(opened.dataset):
            return opened.dataset
    raise DataError("there are no training images", "name them in dataset.train_images_path, or give another folder")


def _weights(network: Network) -> list[str]:
    """How to start from published weights, where there are any: not by itself, since they must be fetched."""
    rows = [row for row in published_weights(network.family) if row.model == network.name and not row.backbone]
    if not rows or network.width is not None:
        return []
    row = min(rows, key=lambda row: (row.dataset, abs(row.resolution - network.size)))
    shape = [network.family.preprocess.channels, row.resolution, row.resolution]
    return [
        "To start from published weights, which are fetched on first use, add to `model`:",
        f"pretrained: True, pretrained_dataset: {row.dataset}, pretrained_input_shape: {shape}",
    ]


def _split(data: Config, catalogue: Catalogue, output: Path, reporter: Reporter) -> tuple[Config, Path | None]:
    """The config of the set with validation images, and the folder of the lists that this took."""
    if data.names_split("val"):
        return data, None
    folder = output.with_name(f"{output.stem}_split")
    split_dataset(DataSource(data, catalogue), "train", SHARES, 0, folder, reporter)
    reporter.note(
        f"there are no validation images, so {folder} divides the set: {SHARES.val:g} to validate, {SHARES.test:g} to test; "
        "otherwise: stdet data split, then stdet init FOLDER/dataset.yaml"
    )
    path = folder / "dataset.yaml"
    return load_text(path.read_text(encoding="utf-8"), str(path), (), catalogue, data_only=True), folder
