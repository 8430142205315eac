"""Which registered components a config chooses, by their facts, and whose keys its sections may hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from stdet.config.rules import SPLIT_KEYS, Catalogue
from stdet.errors import PluginError, StdetError, UnavailableError
from stdet.interfaces.dataset import ReaderFacts
from stdet.interfaces.family import ModelFamily, Options
from stdet.interfaces.target import NEUTRAL, TargetFacts
from stdet.known import known
from stdet.modes import DATA, Mode

Raw = Mapping[str, Mapping[str, Any]]
"""A config's sections before they are checked."""
T = TypeVar("T")


@dataclass(frozen=True)
class Contribution:
    """Keys that a chosen component adds to a section.

    Attributes:
        field: of `Contributed` that holds them.
        section: they stand in.
        owner: for people, such as ``the scheduler `cosine` ``.
        options: describes them.
    """

    field: str
    section: str
    owner: str
    options: type[Options]


@dataclass(frozen=True)
class Chosen:
    """What a config chooses. None where nothing is chosen, or what is chosen isn't there and isn't needed.

    Attributes:
        reader_name, recipe, scheduler, board: as the config says, else by default.
        contributions: of all of them.
        unchecked: section to the reason why keys in it can't be judged: the component whose they may be isn't there.
    """

    family: ModelFamily | None
    reader_name: str
    reader: ReaderFacts | None
    recipe: str | None
    scheduler: str | None
    board: str
    target: TargetFacts | None
    contributions: tuple[Contribution, ...]
    unchecked: Mapping[str, str]


class Chooser:
    """Asks a catalogue for the components of a config, and reports those that are wrong, or missing where needed."""

    def __init__(self, mode: Mode, raw: Raw, catalogue: Catalogue, problem: Callable[[str, StdetError], None]) -> None:
        """Args:
        problem: called with the key that names a component, and what is wrong with it.
        """
        self._mode = mode
        self._raw = raw
        self._catalogue = catalogue
        self._problem = problem
        self._unchecked: dict[str, str] = {}

    def choose(self, family: ModelFamily | None) -> Chosen:
        """Args:
        family: of the model, None when the config names none.
        """
        mode, raw = self._mode, self._raw
        name = self._reader_name()
        reader = self._ask("dataset.dataset_name", self._catalogue.reader, name, self._reads_data(), ("dataset",))
        recipe = raw["dataset"].get("augmentation") or (family.augmentation if family else None)
        recipe_key = "dataset.augmentation" if raw["dataset"].get("augmentation") else "model.model_name"
        recipe_options = recipe and self._ask(
            recipe_key, lambda n: self._catalogue.options("transforms", n), str(recipe), mode.trains, ("dataset",)
        )
        scheduler = raw["training"].get("scheduler") or (family.scheduler if family else None)
        schedule = scheduler and self._ask(
            "training.scheduler",
            lambda n: self._catalogue.options("schedulers", n),
            str(scheduler),
            mode.trains,
            ("training",),
        )
        board_key, board = self._board()
        target = self._ask(
            board_key,
            self._catalogue.target,
            board,
            mode.uses_target,
            tuple(NEUTRAL),
        )
        if target is None:  # one mistake is enough: nobody can tell which keys the board would add
            for section in NEUTRAL:
                self._unchecked.setdefault(section, f"the board `{board}` isn't known")
        parts = []
        if reader is not None:
            parts.append(Contribution("reader", "dataset", f"the dataset `{name}`", reader.options))
        if schedule:
            parts.append(Contribution("scheduler", "training", f"the scheduler `{scheduler}`", schedule))
        if family is not None:
            models = f"models of type `{family.model_type}`"
            parts.append(Contribution("model", "model", models, family.model_options))
            parts.append(Contribution("training", "training", models, family.training_options))
        if recipe_options:
            parts.append(Contribution("augmentation", "dataset", f"the transform `{recipe}`", recipe_options))
        return Chosen(
            family,
            name,
            reader,
            None if recipe is None else str(recipe),
            None if scheduler is None else str(scheduler),
            board,
            target,
            tuple(parts),
            self._unchecked,
        )

    def _board(self) -> tuple[str, str]:
        """The key that names the board, and the board: firmware's own one, or that of benches, which is also the default."""
        setup = self._raw["deployment"].get("hardware_setup") if self._mode.deploys else None
        if isinstance(setup, dict) and setup.get("board"):
            return "deployment.hardware_setup.board", str(setup["board"]).lower()
        return "benchmarking.board", str(self._raw["benchmarking"].get("board") or known().defaults.board).lower()

    def _reader_name(self) -> str:
        section = self._raw["dataset"]
        given = section.get("dataset_name")
        if given is None:
            listed = any(section.get(key) for key in SPLIT_KEYS)
            return known().defaults.dataset_with_split_lists if listed else known().defaults.dataset
        names = self._catalogue.names("datasets")
        if str(given) in names:
            return str(given)
        called = [name for name in names if given in self._aliases(name)]
        if len(called) > 1:
            text = f"{given!r} is another name of several formats: {', '.join(called)}"
            self._problem("dataset.dataset_name", PluginError(text, "write the one you mean"))
        return called[0] if called else str(given)

    def _aliases(self, reader: str) -> tuple[str, ...]:
        """Other names of a format; a broken plugin has none, and is reported by the commands that need it."""
        try:
            return self._catalogue.reader(reader).aliases
        except StdetError:
            return ()

    def _reads_data(self) -> bool:
        """Whether annotated images are read for sure; a folder of images needs no reader."""
        mode, quantization = self._mode, self._raw["quantization"]
        if mode is DATA or mode.trains or mode.evaluates:
            return True
        images = self._raw["dataset"].get("quantization_path") or quantization.get("random_calibration")
        return mode.quantizes and (images is None or quantization.get("max_drop") is not None)

    def _ask(
        self,
        key: str,
        facts: Callable[[str], T],
        name: str,
        needed: bool,
        sections: tuple[str, ...],
    ) -> T | None:
        """The facts of a component.

        Args:
            key: that names it.
            needed: whether it matters that it isn't installed or broken; a wrong name is a mistake in any case.
            sections: whose keys can't be judged without it.
        """
        try:
            return facts(name)
        except UnavailableError as error:
            if needed:
                self._problem(key, error)
            for section in sections:
                self._unchecked[section] = error.message
        except StdetError as error:
            self._problem(key, error)
        return None
