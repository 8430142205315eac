"""Training, from the config to the best checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from stdet.artifacts import ModelFile, check_room, remove_leftovers, write_json
from stdet.engine.callbacks import Callback
from stdet.engine.checkpoint import deterministic, read_checkpoint, seed_everything, spec_of
from stdet.engine.resume import facts_of
from stdet.engine.trainer import Trainer
from stdet.errors import ArtifactError
from stdet.evaluation.plots import plot_history
from stdet.evaluation.predictors import TorchPredictor
from stdet.extras import has
from stdet.interfaces.dataset import DetectionDataset
from stdet.interfaces.detector import Detector
from stdet.interfaces.published import IMAGENET
from stdet.nn.distributed import from_main, is_main, synchronize_batch_norm
from stdet.nn.precision import choose_precision
from stdet.nn.weights import load_weights, read_state_dict
from stdet.runs.results import Trained
from stdet.stages.data import open_for_scoring, open_for_training
from stdet.stages.foresight import foresee
from stdet.stages.models import published
from stdet.stages.resume import checkpoint_to_resume
from stdet.stages.run import Run
from stdet.stages.scoring import score

COPIES = 12
"""Of the weights, in the checkpoints of a training: latest, best and the one being written, each with live weights, averaged
ones and two moments."""


def train(run: Run) -> None:
    """Train, leave checkpoints, curves and `history.json`; the run's model becomes the best checkpoint."""
    builder, config = run.builder, run.builder.config
    seed_everything(config.general.global_seed)
    train_set = open_for_training(run)
    spec = builder.spec(train_set.class_names)
    validation = open_for_scoring(run, "val", spec)
    if config.mode.evaluates and builder.evaluation_split() != "val":
        open_for_scoring(run, builder.evaluation_split(), spec)  # what a chain scores on later is wrong now or never
    foresee(run, spec, train_set)
    detector = builder.detector(spec)
    detector.use_training_options(config.options.training)
    if is_main():
        check_room(run.models, COPIES * sum(weight.nbytes for weight in detector.state_dict().values()))
    device = builder.device()
    detector.to(device)
    if config.training.sync_batch_norm:
        synchronize_batch_norm(detector, device)
    loader = builder.train_loader(train_set, spec)
    settings = builder.train_settings()
    optimizer = builder.optimizer(detector)
    facts = facts_of(detector, loader, optimizer, settings)
    resume = from_main(lambda: checkpoint_to_resume(run, facts))
    if resume is None:
        _start_weights(run, detector)
    elif is_main():
        remove_leftovers(resume.path.parent)
    precision = choose_precision(device, config.training.fp16)
    run.reporter.note(
        f"{spec.model_name}: {len(train_set)} training and {len(validation)} validation images, "
        f"{spec.num_classes} classes, {device}, {precision.description}"
    )
    if settings.quantization_aware:
        run.reporter.note(
            f"training with {settings.quantization_aware} weights and 8-bit activations simulated: the validation scores "
            "are those of the simulated int8 model, the checkpoints hold its float weights"
        )
    history = _HistoryFiles(run)
    with deterministic(config.general.deterministic):
        trainer = Trainer(
            detector,
            loader,
            optimizer,
            builder.scheduler(builder.schedule_length(-(-len(loader) // settings.accumulate))),
            lambda model: _validate(run, model, validation, lambda: trainer.stop_requested()),
            precision,
            settings,
            run.models,
            run.tracker,
            run.reporter,
            [*builder.callbacks(), history, *run.callbacks],
        )
        if resume:
            trainer.resume(resume.path, config.training.start_epoch or None, finished=resume.finished)
        result = trainer.fit()
    if not is_main():
        return
    history.write(result.history)
    run.model = ModelFile(result.best, "checkpoint")
    ap50 = max((row["AP50"] for row in result.history if "AP50" in row), default=None)
    run.record.add(
        Trained(run.model, result.latest, result.best_epoch, result.best_score, ap50, result.seconds, history.curves)
    )


class _HistoryFiles(Callback):
    """`history.json` and, where matplotlib is there, the picture of the curves: up to date after each evaluation."""

    def __init__(self, run: Run) -> None:
        self.curves = run.folder / "curves.png" if has("matplotlib") else None
        self._path = run.models / "history.json"

    def after_evaluation(self, trainer: Trainer, metrics: Mapping[str, float]) -> None:
        if is_main():
            self.write(trainer.history)

    def write(self, history: list[dict[str, float]]) -> None:
        """What is known of each epoch."""
        write_json(self._path, {"format": "stdet.history/1", "epochs": history})
        if self.curves is not None:
            plot_history(history, self.curves)


def _start_weights(run: Run, detector: Detector) -> None:
    """Fine-tuning: load `model.model_path`, or the published weights that `model.pretrained` asks for.

    Heads of another class count keep their fresh start; of a classifier (`pretrained_dataset: imagenet`) the backbone
    takes what fits.
    """
    section = run.builder.config.model
    path, backbone = section.model_path, section.pretrained and section.pretrained_dataset == IMAGENET
    if path is None and section.pretrained:
        path, backbone = published(run)
    if path is None:
        return
    if backbone:
        run.reporter.note(f"{detector.load_backbone(read_state_dict(path))}, from {path}")
        return
    report = load_weights(detector, path)
    run.reporter.note(report.summary())
    theirs, ours = _class_names(path), detector.spec.class_names
    if theirs is not None and theirs != ours and not report.skipped:
        renamed = [f"{old} -> {new}" for old, new in zip(theirs, ours, strict=True) if old != new]
        run.reporter.note(
            f"the class head of {path} was trained for other names and is taken as it is: {', '.join(renamed[:5])}"
            + (f" and {len(renamed) - 5} more" if len(renamed) > 5 else "")
        )


def _class_names(weights: Path) -> tuple[str, ...] | None:
    """Of a checkpoint of ours; other files don't say theirs."""
    try:
        return spec_of(read_checkpoint(weights)).class_names
    except ArtifactError:
        return None


def _validate(run: Run, model: Detector, dataset: DetectionDataset, stop: Callable[[], bool]) -> Mapping[str, float]:
    predictor = TorchPredictor(model, run.builder.device(), run.reporter.note)
    return score(run, predictor, model.spec, dataset, "validation", stop=stop).scalars()
