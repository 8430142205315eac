"""What the calibration doctor says, as findings of `stdet data check`."""

from __future__ import annotations

from collections.abc import Iterator

from stdet.artifacts import ModelFile
from stdet.config import Config
from stdet.data.source import DataSource
from stdet.datatools.duplicates import Prints
from stdet.datatools.findings import Finding, found
from stdet.datatools.fingerprints import fingerprint
from stdet.datatools.splits import FaultLog
from stdet.errors import StdetError
from stdet.interfaces.reporter import Reporter
from stdet.interfaces.target import QuantizationNeeds
from stdet.quantizing.choice import choose
from stdet.quantizing.doctor import Printed, examine
from stdet.structures import Preprocess

IDS = {"size": "D401", "classes": "D402", "overlap": "D403", "duplicates": "D405", "preprocessing": "D406"}
"""Of what the doctor objects to."""


def calibration_findings(source: DataSource, prints: Prints, reporter: Reporter) -> Iterator[Finding]:
    """D401 to D406 on the images of `dataset.quantization_path`, or on the share of the training set that stands in.

    Args:
        prints: of the splits whose images were read.
    """
    section, config = source.config.dataset, source.config
    splits = {opened.name: Printed(opened.dataset, p) for opened, p in prints}
    training = splits.get("train")
    if not _takes_images(config) or (section.quantization_path is None and training is None):
        return
    names, faults = source.class_names() or (prints[0][0].dataset.class_names if prints else ()), FaultLog()
    label = "quantization" if section.quantization_path else "train"
    try:
        chosen = choose(source, names, None, faults.add, training.images if training else None)
    except StdetError as error:
        yield found("D100", label, f"can't be opened: {error.message}", 1)
        return
    if section.quantization_path is None and training is not None:
        own = training.prints.subset(chosen.indices)
    else:
        own = fingerprint(
            chosen, faults, section.num_workers, lambda done, total: reporter.progress(label, done, total)
        )
        if faults.counts:
            yield found("D002", label, faults.summary(), sum(faults.counts.values()))
    judges = source.evaluation_split()
    checks = examine(config, chosen, own, names, _trained_with(config), splits.get(judges), list(splits.values()))
    for check in checks:
        if check.verdict in ("warning", "error"):
            where = f"{label}+{judges}" if check.name == "overlap" else label
            message = f"{check.finding}; {check.hint}" if check.hint else check.finding
            yield found(IDS[check.name], where, message, check.count, check.examples, check.verdict)
        elif check.name == "classes" and check.verdict == "unknown":
            yield found("D404", label, check.finding, check.count)


def _takes_images(config: Config) -> bool:
    """Whether quantizing would look at images at all."""
    needs = config.target.needs(config.quantization) if config.target is not None else QuantizationNeeds()
    return needs.calibration and not config.quantization.random_calibration


def _trained_with(config: Config) -> Preprocess | None:
    """What an ONNX in `model.model_path` says of its preprocessing.

    A checkpoint may be there to be trained further, with another one. A file that can't be read is for the stages to say.
    """
    from stdet.export.metadata import read_spec  # takes onnx, which the other checks needn't wait for

    path = config.model.model_path
    try:
        model = ModelFile.at(path) if path is not None else None
        spec = read_spec(model.path) if model is not None and model.is_onnx else None
    except StdetError:
        return None
    return spec.preprocess if spec is not None else None
