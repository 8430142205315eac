"""Everything that a first config says beside the network: data, training, int8, each value with its reason."""

from __future__ import annotations

from collections.abc import Iterator

from stdet.config import Config
from stdet.interfaces.advice import Proposal, Situation
from stdet.interfaces.transform import RecipeOptions
from stdet.registry import Catalogue
from stdet.starting.network import Network

BATCHES = (4, 8, 16, 32)
STEPS_AN_EPOCH = 20
"""The batch is the largest of `BATCHES` with so many steps in an epoch."""
FEWEST_EPOCHS, MOST_EPOCHS = 30, 300
CALIBRATION_IMAGES = 100
"""Images that are calibrated on: more of them change the ranges little."""


def plan(
    data: Config,
    names: tuple[str, ...],
    images: int,
    network: Network,
    small: float,
    board: str | None,
    catalogue: Catalogue,
) -> list[Proposal]:
    """All entries, in the order of the file.

    Args:
        data: whose `dataset` section names the images.
        names: the classes, in label order.
        images: of the training set.
        small: see `Situation`.
    """
    batch = next((b for b in reversed(BATCHES) if images >= b * STEPS_AN_EPOCH), BATCHES[0])
    steps = max(1, images // batch)
    epochs = min(MOST_EPOCHS, max(FEWEST_EPOCHS, round(network.family.advice.steps / steps)))
    situation = Situation(images, small, batch, epochs)
    recipe: type[RecipeOptions] = catalogue.options("transforms", network.family.augmentation)
    why = "train, export, score, make int8, score again"
    mode = Proposal("operation_mode", "chain_tqe", why)
    if board is not None:
        mode = Proposal("operation_mode", "chain_tqeb", f"{why}, and say what it costs on the board")
    entries = [
        *_model(network),
        *_data(data, names, images),
        *_training(situation, steps),
        *network.family.advice.proposals(situation),
        *recipe.proposals(situation),
        *([Proposal("benchmarking.board", board, "as asked; `stdet list targets`")] if board is not None else []),
    ]
    order = [entry.key.partition(".")[0] for entry in entries]
    return [mode, *sorted(entries, key=lambda entry: order.index(entry.key.partition(".")[0]))]


def _model(network: Network) -> Iterator[Proposal]:
    yield Proposal("model.model_name", network.name, network.why_model)
    shape = [network.family.preprocess.channels, network.size, network.size]
    yield Proposal("model.input_shape", shape, network.why_size)
    if network.width is not None:
        yield Proposal(f"model.{network.family.width_option}", network.width, "a share of all channels, for the board")


def _data(data: Config, names: tuple[str, ...], images: int) -> Iterator[Proposal]:
    given = data.dataset.model_dump(mode="json", exclude_none=True)
    yield Proposal("dataset.dataset_name", data.dataset.dataset_name, "how the annotations are written")
    yield Proposal("dataset.class_names", list(names), "in label order; leave one out and its objects are left out")
    for split in ("train", "val", "test"):
        for what in ("images_path", "annotations_path", "split"):
            if (value := given.get(f"{split}_{what}")) is not None:
                yield Proposal(f"dataset.{split}_{what}", value, "")
    share = min(1.0, round(CALIBRATION_IMAGES / images, 3)) if images else 1.0
    yield Proposal(
        "dataset.quantization_split", share, f"about {round(share * images)} training images set the int8 ranges"
    )


def _training(situation: Situation, steps: int) -> Iterator[Proposal]:
    batch, epochs = situation.batch_size, situation.epochs
    yield Proposal("training.batch_size", batch, f"{steps} steps an epoch from {situation.images} images")
    yield Proposal("training.epochs", epochs, f"{epochs * steps} steps; more help while the score of validation rises")
    yield Proposal("training.eval_interval", max(1, epochs // 10), "the best of these weights are kept")
    yield Proposal("training.print_interval", max(1, steps // 2), "")
