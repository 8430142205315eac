"""Which names exist, and what builds them. The only file that imports mmengine, and only when something is built."""

from __future__ import annotations

import difflib
import functools
import importlib
import logging
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from stdet.errors import PluginError, UnavailableError
from stdet.isolation import ForeignError, isolated
from stdet.known import known

log = logging.getLogger(__name__)

KINDS = ("models", "datasets", "transforms", "schedulers", "targets")


@dataclass(frozen=True)
class Entry:
    """One registered component; nothing of it is imported yet.

    Attributes:
        kind: one of `KINDS`.
        name: what configs say.
        target: `"module:attribute"` of what builds it.
        summary: one line for people.
        distribution, version: who brought it.
        options: for transforms and schedulers, `"module:Class"` of its config keys, or None.
        facts: for data sets and targets, `"module:NAME"` of its `ReaderFacts` or `TargetFacts`, or None.
        family: for models, `"module:NAME"` of the `ModelFamily`.
        writer: for data sets, `"module:Class"` of the `DatasetWriter` of the format, or None.
    """

    kind: str
    name: str
    target: str
    summary: str
    distribution: str
    version: str
    options: str | None = None
    facts: str | None = None
    family: str | None = None
    writer: str | None = None


@dataclass(frozen=True)
class Listing:
    """A line of `stdet list`: a registered component, or one of our own that isn't there.

    Attributes:
        state: `available`, `claimed twice`, `set aside` or `not installed`; the reason beside it.
    """

    name: str
    summary: str
    distribution: str
    version: str
    state: str
    reason: str


class Catalogue:
    """All committed entries, by kind and name. A name claimed twice belongs to nobody; `distribution/name` is exact."""

    def __init__(
        self, entries: Iterable[Entry], missing: dict[str, str] | None = None, installed: Iterable[str] = ()
    ) -> None:
        """Args:
        entries: in any order.
        missing: distribution to the reason why its plugin was set aside.
        installed: distributions that have a plugin.
        """
        self._installed = frozenset(installed)
        self._table: dict[str, dict[str, list[Entry]]] = {kind: defaultdict(list) for kind in KINDS}
        for entry in entries:
            self._table[entry.kind][entry.name].append(entry)
        self._missing = missing or {}

    def entries(self, kind: str) -> list[Entry]:
        """Every entry of a kind, by name."""
        return sorted(
            (e for found in self._table[kind].values() for e in found), key=lambda e: (e.name, e.distribution)
        )

    def listing(self, kind: str) -> list[Listing]:
        """Every name of a kind, those that can't be used included, by name."""
        lines = []
        for e in self.entries(kind):
            rivals = [r.distribution for r in self._table[kind][e.name] if r.distribution != e.distribution]
            state = "claimed twice" if rivals else "available"
            reason = f"{', '.join(rivals)} claims it too; write {e.distribution}/{e.name}" if rivals else ""
            lines.append(Listing(e.name, e.summary, e.distribution, e.version, state, reason))
        for distribution, names in known().provides[kind].items():
            if distribution in self._installed and distribution not in self._missing:
                continue
            aside = self._missing.get(distribution)
            state, reason = ("set aside", aside) if aside else ("not installed", f"pip install {distribution}")
            lines += [Listing(n, "", distribution, "", state, reason) for n in names if n not in self._table[kind]]
        return sorted(lines, key=lambda line: (line.name, line.distribution))

    def names(self, kind: str) -> list[str]:
        """The names that a config may use for a kind."""
        return sorted(name for name, found in self._table[kind].items() if len(found) == 1)

    def entry(self, kind: str, name: str) -> Entry:
        """The entry that `name` or `distribution/name` stands for.

        Raises:
            PluginError: unknown (with close matches), not installed, set aside, or claimed twice.
        """
        distribution, _, short = name.rpartition("/")
        found = [e for e in self._table[kind].get(short, []) if not distribution or e.distribution == distribution]
        if len(found) == 1:
            return found[0]
        noun = kind.removesuffix("s")
        if found:
            owners = " and ".join(e.distribution for e in found)
            raise PluginError(
                f"{noun} `{name}` is claimed by {owners}, so it belongs to neither",
                f"write `{found[0].distribution}/{name}` or uninstall one of them",
            )
        raise self._unknown(kind, noun, short)

    def _unknown(self, kind: str, noun: str, name: str) -> PluginError:
        if absence := self._absence(kind, noun, name):
            return absence
        close = difflib.get_close_matches(name, sorted({*self._table[kind], *known().names(kind)}), 3)
        guess = f"; did you mean {' or '.join(f'`{c}`' for c in close)}?" if close else ""
        aside = f"; set aside: {', '.join(sorted(self._missing))} (`stdet plugins` says why)" if self._missing else ""
        return PluginError(f"unknown {noun} `{name}`{guess}", f"`stdet list {kind}` shows what is installed{aside}")

    def _absence(self, kind: str, noun: str, name: str) -> UnavailableError | None:
        """Why a name of ours isn't there; None when it isn't ours."""
        distribution = known().provider(kind, name)
        if distribution is None:
            return None
        if reason := self._missing.get(distribution):
            return UnavailableError(
                f"{noun} `{name}` is provided by {distribution}, whose plugin is set aside: {reason}"
            )
        if distribution not in self._installed:
            return UnavailableError(
                f"{noun} `{name}` is provided by {distribution}, which is not installed", f"pip install {distribution}"
            )
        return UnavailableError(f"{distribution} as installed has no {noun} `{name}`", f"pip install -U {distribution}")

    def options(self, kind: str, name: str) -> Any:
        """The `Options` class of a component's own config keys; the empty one when it has none.

        Raises:
            PluginError: as `entry`, or what is registered is no such class.
        """
        from stdet.interfaces.family import Options
        from stdet.interfaces.transform import RecipeOptions

        entry = self.entry(kind, name)
        role, none = ("recipe options", RecipeOptions) if kind == "transforms" else ("options", Options)
        return resolve(entry, role, entry.options) if entry.options else none

    def reader(self, name: str) -> Any:
        """The `ReaderFacts` of a data set format.

        Raises:
            PluginError: as `entry`, or what is registered are no such facts.
        """
        from stdet.interfaces.dataset import ReaderFacts

        entry = self.entry("datasets", name)
        return resolve(entry, "reader facts", entry.facts) if entry.facts else ReaderFacts()

    def target(self, name: str) -> Any:
        """The `TargetFacts` of a board.

        Raises:
            PluginError: as `entry`, or what is registered are no such facts.
        """
        from stdet.interfaces.target import TargetFacts

        entry = self.entry("targets", name)
        return resolve(entry, "target facts", entry.facts) if entry.facts else TargetFacts()

    def targets(self) -> dict[str, Any]:
        """The facts of all boards, each once, by the name of the first board that they hold for.

        Where two distributions have a board of one name, the second one's is under its full name.
        """
        found: dict[str, Any] = {}
        for entry in self.entries("targets"):
            try:
                facts = self.target(f"{entry.distribution}/{entry.name}")
            except PluginError as error:
                log.warning("%s", error.message)
                continue
            if all(facts is not other for other in found.values()):
                name = entry.name if entry.name not in found else f"{entry.distribution}/{entry.name}"
                found[name] = facts
        return found

    def family(self, model_name: str) -> Any:
        """The `ModelFamily` of a model.

        Raises:
            PluginError: as `entry`, or what is registered is no family.
        """
        entry = self.entry("models", model_name)
        return resolve(entry, "family", entry.family or "")

    def writer(self, name: str) -> Any:
        """The `DatasetWriter` class of a data set format.

        Raises:
            PluginError: as `entry`, nobody can write the format, or what is registered is no writer.
        """
        entry = self.entry("datasets", name)
        if entry.writer is None:
            able = ", ".join(e.name for e in self.entries("datasets") if e.writer)
            raise PluginError(f"no data set can be written as `{name}`", f"formats with a writer: {able or 'none'}")
        return resolve(entry, "writer", entry.writer)

    def families(self) -> dict[str, Any]:
        """Every installed family whose `model_type` is claimed by no other, by that type."""
        types = [family.model_type for family, _ in self._sound_families]
        return {f.model_type: f for f, _ in self._sound_families if types.count(f.model_type) == 1}

    def family_of_type(self, model_type: str) -> Any:
        """The `ModelFamily` that `model_type` or `distribution/model_type` stands for; None when nobody has it.

        Raises:
            PluginError: several distributions claim the type, or its package is not installed or set aside.
        """
        distribution, _, short = model_type.rpartition("/")
        found = [
            (family, owners)
            for family, owners in self._sound_families
            if family.model_type == short and (not distribution or distribution in {e.distribution for e in owners})
        ]
        if len(found) > 1:
            names = sorted({e.distribution for _, owners in found for e in owners})
            raise PluginError(
                f"model_type `{short}` is claimed by {' and '.join(names)}, so it belongs to neither",
                f"write `{names[0]}/{short}`, name the model in model.model_name, or uninstall one of them",
            )
        if not found and (absence := self._absence("model_types", "model_type", short)):
            raise absence
        return found[0][0] if found else None

    def heads(self) -> dict[str, Any]:
        """Every way to read outputs that `model.head` may name: core's and those of installed families."""
        return {name: form for name, (form, _) in self._heads.items()}

    def decoder(self, head: str, spec: Any) -> Any:
        """What reads outputs of the form `head`.

        Raises:
            PluginError: nobody knows it, or it can't be imported.
        """
        if head not in self._heads:
            known = ", ".join(sorted(self._heads))
            raise PluginError(f"no installed package reads the head `{head}`", f"known are {known}")
        form, entry = self._heads[head]
        return resolve(entry, "target", form.target)(spec)

    @functools.cached_property
    def _heads(self) -> dict[str, tuple[Any, Entry]]:
        """The heads with who brought them. One that two distributions claim belongs to neither, core's are core's; what
        is left out is warned of."""
        from stdet.interfaces.heads import HEADS

        claims: dict[str, dict[str, tuple[Any, Entry]]] = defaultdict(dict)
        for family, (owner, *_) in self._sound_families:
            for form in family.heads:
                entry = Entry("heads", form.name, form.target, form.summary, owner.distribution, owner.version)
                claims[form.name][owner.distribution] = (form, entry)
        found = {}
        for name, brought in claims.items():
            if len(brought) > 1:
                log.warning("head `%s` is claimed by %s, so it belongs to neither", name, " and ".join(sorted(brought)))
            else:
                found[name] = next(iter(brought.values()))
        for form in HEADS:
            if form.name in claims:
                log.warning(
                    "head `%s` of %s is left out: core has it", form.name, " and ".join(sorted(claims[form.name]))
                )
            found[form.name] = (form, Entry("heads", form.name, form.target, form.summary, "stdet-core", ""))
        return found

    def model_of(self, family: Any) -> str:
        """A model of `family`: any of them can read the outputs of the others."""
        entry = next(owners[0] for found, owners in self._sound_families if found is family)
        return entry.name if len(self._table["models"][entry.name]) == 1 else f"{entry.distribution}/{entry.name}"

    @functools.cached_property
    def _sound_families(self) -> list[tuple[Any, list[Entry]]]:
        """Every family with its models. One that can't be used is left out with a warning: whoever asks for all of
        them doesn't need that one, and using its models says what is wrong."""
        families: dict[int, tuple[Any, list[Entry]]] = {}
        broken: set[str | None] = set()
        for entry in self.entries("models"):
            if entry.family in broken:
                continue
            try:
                family = resolve(entry, "family", entry.family or "")
            except PluginError as error:
                log.warning("%s", error.message)
                broken.add(entry.family)
            else:
                families.setdefault(id(family), (family, []))[1].append(entry)
        return list(families.values())

    def build(self, kind: str, name: str, *args: Any) -> Any:
        """Import what `name` stands for and call it with `args`.

        Raises:
            PluginError: as `entry`, or the target can't be imported or called, or ends the program.
        """
        entry = self.entry(kind, name)
        registry = _fenced_registry(kind)
        key = f"{entry.distribution}/{entry.name}"
        registry.register_module(name=key, module=resolve(entry, "target", entry.target), force=True)
        try:
            return registry.get(key)(*args)
        except SystemExit as ended:  # else the command would end with the plugin's code, and silently
            raise PluginError(
                f"{entry.distribution} {entry.version} ended the program ({ended!r}) when {kind.removesuffix('s')} "
                f"`{entry.name}` was built",
                f"update or reinstall {entry.distribution}",
            ) from ended


def resolve(entry: Entry, role: str, target: str) -> Any:
    """The object that a `"module:attribute"` string of a *plugin* names; never a string from a config.

    Args:
        role: what `target` was registered as; see `stdet.interfaces.registered`.

    Raises:
        PluginError: it can't be imported, or is not what the role asks for.
        Interrupted: the user stopped the import.
    """

    from stdet.interfaces.registered import fault_of

    def find() -> tuple[Any, str]:
        module, _, attribute = target.partition(":")
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
        return found, fault_of(role, found)

    registered = (
        f"{entry.distribution} {entry.version} registers {entry.kind.removesuffix('s')} `{entry.name}` "
        f"{'as' if role == 'target' else f'with {role}'} `{target}`"
    )
    hint = f"update or reinstall {entry.distribution}"
    try:
        found, fault = isolated(find, f"importing `{target}` of {entry.distribution}")
    except ForeignError as error:
        raise UnavailableError(f"{registered}, which can't be imported: {error}", hint) from error
    if fault:
        raise UnavailableError(f"{registered}, {fault}", hint)
    return found


@functools.cache
def _fenced_registry(kind: str) -> Any:
    """The mmengine registry of a kind, fenced: mmengine's own imports any dotted path it is asked for, and follows
    `_scope_` into other packages, so a config could run `os.system`. Ours answers from its own table or raises."""
    from mmengine.registry import Registry

    class FencedRegistry(Registry):
        def get(self, key: str) -> Any:
            if key not in self._module_dict:
                raise PluginError(f"`{key}` is not a registered {kind.removesuffix('s')}", f"see `stdet list {kind}`")
            return self._module_dict[key]

        def build(self, cfg: Any, *args: Any, **kwargs: Any) -> Any:
            raise PluginError("components are built by name with checked arguments, never from a dict")

        def import_from_location(self) -> None:
            """Importing modules because a name was asked for is what the fence is against."""

    return FencedRegistry(kind, scope="stdet", locations=[])
