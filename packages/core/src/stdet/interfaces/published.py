"""Which weights of a family are published: its weight catalogue, a JSON file in its package. No torch here."""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Iterable
from dataclasses import dataclass

from stdet.errors import ModelError
from stdet.interfaces.family import ModelFamily

FORMAT = "stdet.weights/1"
IMAGENET = "imagenet"
"""The data set of classifiers: their weights can start a backbone, but detect nothing."""


@dataclass(frozen=True)
class PublishedWeights:
    """One published file.

    Attributes:
        model: registered name of the model.
        dataset: what the weights learned, such as `coco`; `model.pretrained_dataset` in configs.
        resolution: input width that they learned at, pixels.
        file: name of the file, here and in mirrors and caches.
        url: where it is published.
        sha256: its SHA-256 in hex, or the first digits of it where no more is known; None when nothing is.
        backbone: whether it is a classifier, whose weights only a backbone can take.
    """

    model: str
    dataset: str
    resolution: int
    file: str
    url: str
    sha256: str | None = None
    backbone: bool = False


def published_weights(family: ModelFamily) -> tuple[PublishedWeights, ...]:
    """All published files of a family.

    The JSON file that `ModelFamily.weights` names: `format`, `locations` (name to base URL), and `weights`, a list of the
    attributes of `PublishedWeights` with `location` instead of `url`.

    Raises:
        ModelError: the file is missing or damaged, which is the package's fault.
    """
    if not family.weights:
        return ()
    package, _, name = family.weights.partition(":")
    try:
        document = json.loads(importlib.resources.files(package).joinpath(name).read_text(encoding="utf-8"))
        if document["format"] != FORMAT:
            raise ValueError(f"format {document['format']} instead of {FORMAT}")
        locations = document["locations"]
        return tuple(
            PublishedWeights(
                **{k: v for k, v in row.items() if k != "location"}, url=locations[row["location"]] + row["file"]
            )
            for row in document["weights"]
        )
    except (OSError, ImportError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"the weight catalogue {family.weights} can't be read: {error!r}", "reinstall the package"
        ) from error


def choose_weights(
    family: ModelFamily, model: str, dataset: str | None, resolution: int | None, input_width: int
) -> PublishedWeights:
    """The published file that a config asks for.

    Args:
        dataset: `model.pretrained_dataset`; None takes the only one there is.
        resolution: width in `model.pretrained_input_shape`; None takes the one of `input_width`, or the only one.
        input_width: of the network that will get the weights.

    Raises:
        ModelError: there is no such file, or several fit; the hint lists what exists.
    """
    rows = [row for row in published_weights(family) if row.model == model]
    found = [row for row in rows if row.dataset == dataset or (dataset is None and not row.backbone)]
    if resolution is not None:
        found = [row for row in found if row.resolution == resolution]
    elif len(found) > 1:
        found = [row for row in found if row.resolution == input_width] or found
    if len(found) == 1:
        return found[0]
    asked = f"{dataset or 'any data set'}{f' at {resolution} px' if resolution else ''}"
    listed = f"there are: {_listed(rows)}" if rows else f"no weights of {model} are published"
    if found:
        raise ModelError(
            f"several weights of {model} are published for {asked}",
            f"set model.pretrained_dataset and model.pretrained_input_shape; {listed}",
        )
    raise ModelError(
        f"no weights of {model} are published for {asked}", f"{listed}; or name a file in model.model_path"
    )


def _listed(rows: Iterable[PublishedWeights]) -> str:
    sizes: dict[str, list[str]] = {}
    for row in rows:
        sizes.setdefault(row.dataset, []).append(str(row.resolution))
    return "; ".join(f"{dataset} at {', '.join(found)} px" for dataset, found in sizes.items())
