"""What the command line and other programs call. Knows the order of the stages; imports torch only when a stage runs."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

from stdet.artifacts import ModelFile, cache_folder, is_model, is_onnx, write_json, write_text
from stdet.errors import ArtifactError, ConfigError, PluginError, Rejected, StdetError
from stdet.extras import command, has, need
from stdet.isolation import borrowed_home
from stdet.plugins.choice import left_out, owner
from stdet.plugins.loader import PluginState, installed, load_plugins
from stdet.runs.environment import installed_versions
from stdet.runs.folder import log_file, new_folder, tool_folder

if TYPE_CHECKING:
    from stdet.config import Config
    from stdet.engine.callbacks import Callback
    from stdet.interfaces.deploy import BenchReport, DeployTarget
    from stdet.interfaces.reporter import Reporter
    from stdet.plugins.check import Finding
    from stdet.plugins.template import NewPlugin
    from stdet.registry import Catalogue, Entry, Listing
    from stdet.runs.record import RunRecord
    from stdet.runs.results import Benched
    from stdet.structures import Table


@dataclass(frozen=True)
class RunResult:
    """Attributes:
    run_dir: the folder that holds everything the run wrote.
    document: the same facts for programs, JSON-able.
    tables: for people.
    failed: whether the command shall end with code 2, as `data check` does on errors in the data.
    """

    run_dir: Path
    document: dict[str, Any]
    tables: list[Table]
    failed: bool = False


@functools.cache
def _plugins() -> tuple[Catalogue, list[PluginState]]:
    return load_plugins()


def plugins() -> list[PluginState]:
    """Every plugin found, with its state and, where it isn't loaded, the reason; found out in a process of its own."""
    from stdet.plugins.survey import survey

    return list(survey().states)


def take_plugin_files(arguments: Sequence[str]) -> list[str]:
    """The arguments of a command without each `--plugin FILE`; the plugins of these files are loaded from now on.

    Raises:
        PluginError: a file is missing or can't be a module.
    """
    from stdet.plugins.files import take_option

    return take_option(arguments)


def blamed_plugin(error: BaseException) -> str:
    """The plugin whose code raised an error that nobody foresaw, with its version; empty where it is ours."""
    from stdet.plugins.blame import blamed

    return blamed(error)


def registered_by(name: str) -> list[Entry]:
    """What the plugin called `name`, by entry point or distribution, registers.

    Raises:
        StdetError: there is none, or it isn't loaded.
    """
    from stdet.plugins.check import chosen
    from stdet.plugins.survey import survey

    found = survey()
    states = chosen(found, name)
    if all(state.state != "loaded" for state in states):
        told = "; ".join(f"{state.state}: {state.reason}" for state in states)
        raise PluginError(f"the plugin `{name}` registers nothing: {told}", f"stdet plugins check {name}")
    return [entry for entry in found.entries if entry.distribution in {state.distribution for state in states}]


def check_plugins(name: str | None = None, limit_s: float = 60.0) -> list[Finding]:
    """Import all that the plugins name, or the one called `name`, each in a process of its own, and say what is wrong.

    Args:
        limit_s: how long one import may take, seconds.

    Raises:
        StdetError: there is no such plugin.
    """
    from stdet.plugins.check import check
    from stdet.plugins.survey import survey

    return check(survey(limit_s), name, limit_s)


def set_plugin_disabled(name: str, off: bool) -> Path:
    """Leave a plugin out of every later command, or load it again; nothing is imported. Returns the file that says so.

    Raises:
        PluginError: no such plugin, it is core, or it isn't disabled.
        ArtifactError: the list can't be read or written.
    """
    from stdet.plugins.choice import set_disabled

    return set_disabled(name, off, installed([]))


def new_plugin(name: str, kind: str, output: Path, licence: str, author: str = "") -> NewPlugin:
    """Write a package with one working component of `kind` into `output`.

    Raises:
        StdetError: no name for a distribution, the folder is there already, or the package with the template isn't.
    """
    from stdet.plugins.template import new_plugin as write

    return write(name, kind, output, licence, author)


def versions() -> dict[str, str]:
    """The version of python, of every distribution that is or extends stdet, and of what computes; nothing is imported."""
    return installed_versions()


def list_components(kind: str) -> list[Listing]:
    """The `models`, `datasets`, `transforms`, `schedulers` or `targets`, by name, with their state.

    Targets are grouped by what they run on, with which each one's summary begins.
    """
    listed = _plugins()[0].listing(kind)
    return sorted(listed, key=lambda line: (line.summary.partition(" ")[0], line.name)) if kind == "targets" else listed


def load_config(path: Path, overrides: Sequence[str] = (), operation_mode: str | None = None) -> Config:
    """Read and check a config file.

    Args:
        path: YAML file.
        overrides: `key=value`, applied on top of the file.
        operation_mode: replaces the file's.

    Raises:
        ConfigError: with every mistake in it.
    """
    from stdet.config import load

    return load(path, overrides, _plugins()[0], operation_mode=operation_mode)


def load_command(what: Path, overrides: Sequence[str], operation_mode: str) -> Config:
    """What a command works on: a config file, or a model file, which says all but the overrides itself.

    Args:
        what: YAML file, ONNX file or checkpoint, told by what it holds.
        overrides: `key=value`, applied on top of the file.
        operation_mode: what the command does.

    Raises:
        ConfigError: with every mistake in it.
    """
    from stdet.config import load_text

    if not is_model(what):
        return load_config(what, overrides, operation_mode)
    given = [f"model.model_path={json.dumps(str(what), ensure_ascii=False)}", *overrides]
    return load_text("", "command line", given, _plugins()[0], operation_mode=operation_mode)


def check_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """As `load_config`, for who asks whether a config can run here: files that it names and that aren't there are mistakes.

    Raises:
        ConfigError: with every mistake in it.
    """
    from stdet.config import ConfigProblems, Problem, absent_files

    config = load_config(path, overrides)
    problems = [
        Problem(config.places.get(key, str(path)), key, f"there is nothing at {file}")
        for key, file in absent_files(config)
    ]
    if problems:
        raise ConfigProblems(str(path), problems)
    return config


def named_config(
    path: Path | None, overrides: Sequence[str], folder: Path | None = None, name: str | None = None
) -> tuple[Path, list[str]]:
    """The config that a command line means, and its overrides.

    Args:
        path: the file; with `folder` or `name` it can only be the first override.
        folder, name: as `--config-path` and `--config-name` of the reference's command; name is `user_config` by default.

    Raises:
        ConfigError: no file, or two.
    """
    if folder is None and name is None:
        if path is None:
            raise ConfigError("no config is named", "stdet run CONFIG.yaml, or --config-path DIR --config-name FILE")
        return path, list(overrides)
    if path is not None and "=" not in str(path) and not str(path).startswith("~"):
        raise ConfigError(f"two configs are named: {path}, and one by --config-path or --config-name", "leave one out")
    found = (folder or Path()) / (name or "user_config")
    if found.suffix not in (".yaml", ".yml"):
        found = found.with_name(f"{found.name}.yaml")
    return found, [*([str(path)] if path is not None else []), *overrides]


def config_document(config: Config) -> dict[str, Any]:
    """A checked config with every default filled in, JSON-able."""
    return config.document()


def config_yaml(config: Config) -> str:
    """The same as YAML; loading it gives the same config."""
    from stdet.config import to_yaml

    return to_yaml(config)


def config_schema(config: Config | None = None) -> dict[str, Any]:
    """JSON Schema of the config dialect: with the keys of every installed component, or of those that `config` uses."""
    from stdet.config import to_json_schema

    return to_json_schema(_plugins()[0], config)


COMPONENT_KEYS = {
    "model.model_name": "models",
    "dataset.dataset_name": "datasets",
    "dataset.augmentation": "transforms",
    "training.scheduler": "schedulers",
    "benchmarking.board": "targets",
}
"""Config keys whose value is the name of a component, and of which kind."""


def config_words() -> dict[str, list[str]]:
    """Every config key, with its values where they are few, for a shell that completes.

    Making it takes a second, and numpy; so it is kept in stdet's cache folder, for these installed versions.
    """
    points = installed([])
    absent = left_out(points)
    key = [
        str(Path(__file__).parent),
        *sorted(f"{point.name} {owner(point)}" for point in points if point not in absent),
    ]
    kept = cache_folder() / "config_words.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        found = json.loads(kept.read_text(encoding="utf-8"))
        if found["key"] == key:
            return dict(found["words"])
    from stdet.config import words

    made = words(config_schema())
    made |= {name: [line.name for line in list_components(kind)] for name, kind in COMPONENT_KEYS.items()}
    with suppress(StdetError):  # a cache that can't be written
        write_json(kept, {"key": key, "words": made})
    return made


def convert_config(path: Path, output: Path) -> RunResult:
    """Write a config of the reference, or of an older dialect, as one of ours: a comment at each change, the rest as it was.

    Args:
        output: YAML file; must not exist yet.

    Returns:
        `failed` when mistakes remain that only a person can mend; the file is written all the same.

    Raises:
        StdetError: `path` can't be read or is no YAML, or `output` exists.
    """
    from stdet.artifacts import check_new
    from stdet.config import convert_text, read_text
    from stdet.structures import Table

    check_new(output)
    made = convert_text(read_text(path), str(path), _plugins()[0])
    write_text(output, made.text)
    document = {
        "format": "stdet.config-converted/1",
        "config": str(output),
        "changes": [{"line": c.line, "key": c.key, "what": c.what} for c in made.changes],
        "remaining": [str(problem) for problem in made.remaining],
    }
    changes = Table("changed", ["line", "key", "what"], [[str(c.line), c.key, c.what] for c in made.changes])
    left = Table(
        "left for you to mend", ["where", "what"], [[p.place, f"{p.key}: {p.message}"] for p in made.remaining]
    )
    return RunResult(output, document, [table for table in (changes, left) if table.rows], failed=bool(left.rows))


def plot_schedule(config: Config, picture: Path, steps_per_epoch: int | None = None) -> dict[str, Any]:
    """Draw the learning rate of a training, without training, as PNG.

    Args:
        steps_per_epoch: optimizer steps; counted from the training images when None.

    Returns:
        The same facts for programs: for each rate its parameter groups, the first, highest and last value.

    Raises:
        StdetError: the config names no model, its training images can't be counted, or matplotlib is not installed.
    """
    from stdet.build import Builder
    from stdet.engine.schedule_plot import plot_schedule as draw
    from stdet.engine.schedule_plot import schedule_curves

    need("matplotlib", "drawing a schedule")
    if picture.suffix.lower() != ".png":
        raise ConfigError(f"the schedule is drawn as PNG, not as {picture}", "give --output a name that ends in .png")
    builder = Builder(config, _plugins()[0])
    length = builder.schedule_length(steps_per_epoch or builder.steps_per_epoch())
    curves = schedule_curves(builder.scheduler(length), length, builder.untrained_groups())
    draw(curves, length, picture)
    return {
        "format": "stdet.schedule/1",
        "picture": str(picture),
        "scheduler": config.training.scheduler,
        "epochs": length.epochs,
        "steps_per_epoch": length.steps_per_epoch,
        "learning_rates": [
            {
                "groups": list(curve.groups),
                "base": curve.base_lr,
                "first": float(curve.rates[0]),
                "highest": float(curve.rates.max()),
                "last": float(curve.rates[-1]),
            }
            for curve in curves
        ],
    }


@borrowed_home()
def run(config: Config, reporter: Reporter, callbacks: Sequence[Callback] = ()) -> RunResult:
    """Run the stages of `config.mode` in a new folder.

    Under `torchrun`, all processes train and evaluate together, and only the first reports and writes.

    Args:
        callbacks: for the training, beside those that the config asks for.

    Raises:
        StdetError: a mistake of the user's; what earlier stages finished stays in the folder.
    """
    return _run(config, reporter, callbacks, None)


def resume(folder: Path, reporter: Reporter) -> RunResult:
    """Go on with a run that ended early, from its first unfinished stage, in its folder and with its config.

    A training goes on from its latest checkpoint. Of finished stages, nothing is done again.

    Raises:
        StdetError: no run's folder, a file of a finished stage is gone or another, or as `run`.
    """
    from stdet.runs.record import RunRecord

    record = RunRecord.read(folder)
    config = load_config(folder / "config.yaml")
    latest = folder / config.general.saved_models_dir / "latest_ckpt.pth"
    if config.mode.trains and not record.steps and latest.is_file():
        given = f"training.resume_training_from={json.dumps(str(latest), ensure_ascii=False)}"
        config = load_config(folder / "config.yaml", [given])
    if len(record.steps) == len(config.mode.stages):
        reporter.note(f"{folder} is finished: {', '.join(config.mode.stages)}")
        return _result(record, None)
    return _run(config, reporter, (), record)


def _run(config: Config, reporter: Reporter, callbacks: Sequence[Callback], begun: RunRecord | None) -> RunResult:
    from stdet import stages
    from stdet.build import Builder
    from stdet.fitting import before_training
    from stdet.interfaces.reporter import LineReporter, Reporters, SilentReporter
    from stdet.nn.distributed import from_main, is_main, process_group
    from stdet.runs.record import RunRecord
    from stdet.stages.agreement import check_agreement
    from stdet.stages.going_on import told_how_to_go_on
    from stdet.stages.libraries import check_libraries, check_tools
    from stdet.stages.run import Run
    from stdet.stages.track import trackers_of

    left = config.mode.stages[len(begun.steps) if begun else 0 :]
    notes = [*config.notes, *check_libraries(config, left)]
    builder = Builder(config, _plugins()[0])
    check_agreement(builder)
    check_tools(builder)
    with process_group(config.training.device):
        folder = begun.folder if begun else from_main(lambda: new_folder(Path(config.hydra.run.dir)))
        record = begun or RunRecord(folder, config.mode.name)
        record.writes = is_main()
        state = Run(builder, record, reporter if is_main() else SilentReporter(), callbacks=callbacks)
        state.model, state.float_onnx = record.left_model("model"), record.left_model("float_onnx")
        with log_file(folder / "stdet.log") if is_main() else nullcontext() as log:
            if log is not None:
                state.reporter = Reporters(reporter, LineReporter(log))
            if is_main() and not begun:
                write_text(folder / "config.yaml", config_yaml(config))
            record.begin()
            for note in notes:
                state.reporter.note(note)
            if "train" in left and is_main():
                before_training(state.builder, state.reporter)
            try:
                with trackers_of(state) as state.tracker:
                    for index, name in enumerate(left):
                        with told_how_to_go_on(state, left[index:]):
                            stages.do(name, state)
            except Rejected as error:
                error.result = _result(record, log)
                raise
            return _result(record, log)


def _result(record: RunRecord, log: Callable[[str], None] | None) -> RunResult:
    """What a run found; its tables stand in its log, too."""
    from stdet.runs.summary import summary

    table = summary(record.document())
    tables = [*record.tables, *([table] if table.rows else [])]
    if log is not None:
        for each in tables:
            log("\n".join([f"# {each.title}", *("\t".join(row) for row in (each.columns, *each.rows))]))
    return RunResult(record.folder, record.document(), tables)


def bench(
    what: Sequence[str],
    reporter: Reporter,
    *,
    board: str | None = None,
    backends: Sequence[str] = (),
    images: Path | None = None,
    output: Path = Path("bench_results"),
) -> RunResult:
    """Say what models cost: of ONNX files, or of the model of a config.

    Args:
        what: ONNX files; or a config file and `key=value`s on top of it.
        board: registered target; None leaves what the config says.
        backends: names; empty leaves what the config says.
        images: folder, for backends that feed the model; None leaves what the config says.
        output: folder for `bench.json` and `bench.html` where `what` are ONNX files; a config says itself.

    Raises:
        StdetError: unknown board or backend, or a file that can't be benched.
    """
    chosen = [f"benchmarking.board={json.dumps(board)}"] if board is not None else []
    chosen += [f"benchmarking.backends={json.dumps(list(backends))}"] if backends else []
    chosen += [f"benchmarking.images={json.dumps(str(images))}"] if images is not None else []
    files = [Path(name) for name in what if is_onnx(Path(name)) and ("=" not in name or Path(name).is_file())]
    if not files:
        return run(load_config(Path(what[0]), [*what[1:], *chosen], "benchmarking"), reporter)
    if len(files) < len(what):
        other = next(name for name in what if Path(name) not in files)
        raise ConfigError(f"{other} stands among ONNX files", "name ONNX files only, or a config and key=value")
    return _bench_files(files, chosen, output, reporter)


def _bench_files(files: Sequence[Path], chosen: Sequence[str], output: Path, reporter: Reporter) -> RunResult:
    from stdet.config import load_text
    from stdet.export.metadata import read_accuracy
    from stdet.reports.bench_page import bench_page
    from stdet.reports.bench_table import bench_tables

    overrides = [f"model.model_path={json.dumps(str(files[0]))}", *chosen]
    config = load_text("", "command line", overrides, _plugins()[0], operation_mode="benchmarking")
    target = _plugins()[0].build("targets", str(config.benchmarking.board), config.target_sections)
    target.check_tools(config.benchmarking.backends or (), ())
    models = [ModelFile.at(path) for path in files]
    pairs = [(model, backend) for model in models for backend in config.benchmarking.backends or ()]
    folder = new_folder(output)
    target.logs = folder / "tools"
    try:
        benched = _bench_pairs(target, pairs, reporter)
    except BaseException:
        with suppress(OSError):  # what a tool said stays
            folder.rmdir()
        raise
    reports = [report for _, report in benched.reports]
    accuracy = {report.sha256: read_accuracy(model.path) for model, report in benched.reports}
    known = {key: value for key, value in accuracy.items() if value is not None}
    document = {"format": "stdet.bench/1", "reports": benched.to_dict()}
    if len(files) == 1:  # a config has one model
        write_text(folder / "config.yaml", config_yaml(config))
    write_json(folder / "bench.json", document)
    write_text(folder / "bench.html", bench_page(reports, known))
    return RunResult(folder, document, list(bench_tables(reports)))


def _bench_pairs(target: DeployTarget, pairs: Sequence[tuple[ModelFile, str]], reporter: Reporter) -> Benched:
    from stdet.export.plain import plain_form
    from stdet.runs.results import Benched

    def bench_one(model: ModelFile, backend: str) -> BenchReport:
        return target.bench(plain[model], backend, lambda done, total: reporter.progress("bench", done, total))

    with TemporaryDirectory(prefix="stdet_bench_") as scratch:
        plain = {
            model: plain_form(model, Path(scratch) / str(index) / model.path.name, reporter.note, any_input=True).path
            for index, model in enumerate(dict.fromkeys(model for model, _ in pairs))
        }
        return Benched(tuple((model, bench_one(model, backend)) for model, backend in pairs))


def fit(config: Config, reporter: Reporter, latency_ms: float | None = None) -> RunResult:
    """Say before any training whether the network of a config fits its board, and what smaller one does.

    Args:
        latency_ms: how long an inference may take; None when that doesn't matter.

    Returns:
        `failed` when it doesn't fit or is too slow; `fit.json` and `bench.html` in a new folder have it all.

    Raises:
        StdetError: the config names no model, or nothing is known of the board's memory.
    """
    from stdet import fitting
    from stdet.build import Builder
    from stdet.reports.bench_page import bench_page
    from stdet.reports.fit_table import fit_document, fit_tables

    found = fitting.fit(Builder(config, _plugins()[0]), reporter, latency_ms)
    folder = new_folder(config.tool_dir)
    document = fit_document(found)
    write_json(folder / "fit.json", document)
    write_text(folder / "bench.html", bench_page([c.report for c in (found.asked, *found.instead)]))
    return RunResult(folder, document, list(fit_tables(found)), failed=bool(found.asked.wrong))


# --- runs that were --------------------------------------------------------------------------------------------------


def list_runs(folder: Path) -> RunResult:
    """The runs in a folder: scores, sizes, latency, drop; damaged ones as such.

    Raises:
        ArtifactError: there is no such folder.
    """
    from stdet.runs.overview import facts, list_table, runs_below

    lines = [facts(found) for found in runs_below(folder)]
    return RunResult(folder, {"format": "stdet.runs/1", "runs": lines}, [list_table(lines, folder)])


def show_run(folder: Path) -> RunResult:
    """What a run's record says.

    Raises:
        ArtifactError: no run's folder, or its record is damaged.
    """
    from stdet.runs.history import RunFolder
    from stdet.runs.overview import show_tables
    from stdet.runs.summary import summary

    run = RunFolder.read(folder)
    table = summary(run.document)
    return RunResult(folder, run.document, [*show_tables(run), *([table] if table.rows else [])])


def compare_runs(one: Path, other: Path) -> RunResult:
    """What differs between two runs: config, data, versions, results.

    Raises:
        ArtifactError: one is no run's folder, or its record or config is damaged.
    """
    from stdet.runs.history import RunFolder
    from stdet.runs.overview import difference_tables, differences

    found = differences(RunFolder.read(one), RunFolder.read(other))
    document = {"format": "stdet.runs_diff/1", "runs": [str(one), str(other)], **found}
    return RunResult(other, document, list(difference_tables(found, (str(one), str(other)))))


def verify_runs(folders: Sequence[Path]) -> RunResult:
    """Hold every file that a finished stage left against its hash; `failed` when one is gone or another.

    Args:
        folders: runs, or folders of runs.

    Raises:
        ArtifactError: there is no such folder.
    """
    from stdet.runs.overview import runs_below
    from stdet.structures import Table

    lines = [
        {
            "run": str(found.folder),
            "files": len(list(found.run.files())) if found.run else 0,
            "faults": found.run.faults() if found.run else [found.state],
        }
        for folder in folders
        for found in runs_below(folder)
    ]
    rows = [[str(line["run"]), str(line["files"]), "; ".join(line["faults"]) or "none"] for line in lines]  # type: ignore[arg-type]
    failed = any(line["faults"] for line in lines)
    document = {"format": "stdet.runs_verify/1", "runs": lines}
    return RunResult(folders[0], document, [Table("hashes", ["run", "files", "faults"], rows)], failed)


def prune_runs(folder: Path, *, delete: bool = False) -> RunResult:
    """What of finished runs nothing needs any more; deleted only when asked to.

    Raises:
        ArtifactError: there is no such folder, or a file can't be deleted.
    """
    from stdet.runs.overview import prunable, runs_below
    from stdet.structures import Table

    paths = [path for found in runs_below(folder) if found.run for path in prunable(found.run)]
    sizes = {str(path): path.stat().st_size for path in paths}
    for path in paths if delete else ():
        try:
            path.unlink()
        except OSError as error:
            raise ArtifactError(f"cannot delete {path}: {error.strerror or error}") from error
    document = {"format": "stdet.runs_prune/1", "deleted": delete, "bytes": sum(sizes.values()), "files": sizes}
    title = f"{sum(sizes.values()) / 2**20:.1f} MiB {'deleted' if delete else 'may go; --yes deletes them'}"
    rows = [[name, f"{size / 2**20:.2f}"] for name, size in sizes.items()]
    return RunResult(folder, document, [Table(title, ["file", "MiB"], rows)])


# --- data tools --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DataPaths:
    """One split of a data set, for who has no config at hand.

    Attributes:
        format: registered reader.
        images, annotations, names: what `dataset.<split>_images_path`, `_annotations_path` and `_split` would say.
        split: what to call it.
    """

    format: str | None = None
    images: Path | None = None
    annotations: Path | None = None
    names: Path | None = None
    split: str | None = None

    def overrides(self) -> list[str]:
        """The same as `key=value`."""
        split = self.split or "train"
        keys = {
            "dataset_name": self.format,
            f"{split}_images_path": self.images,
            f"{split}_annotations_path": self.annotations,
            f"{split}_split": self.names,
        }
        return [f"dataset.{key}={json.dumps(str(value))}" for key, value in keys.items() if value is not None]


def load_data_config(path: Path | None, overrides: Sequence[str] = (), paths: DataPaths | None = None) -> Config:
    """A config for the data tools, which need no operation mode and no key that they don't use.

    Args:
        path: YAML file, or a folder with images and annotations in a layout that a reader knows; None, or itself a
            `key=value`, when there is none.
        overrides: `key=value`, applied on top of the file.
        paths: applied on top of both.

    Raises:
        ConfigError: with every mistake in it.
        DataError: a folder without annotations, or with several sets.
    """
    from stdet.config import load, load_text

    given = [*overrides, *(paths.overrides() if paths else ())]
    if path is not None and path.is_dir():
        from stdet.datatools.layout import keys_of, overrides_of

        given = [*overrides_of(keys_of(path, _plugins()[0], paths.format if paths else None)), *given]
    elif path is not None and ("=" not in str(path) or path.exists()):
        return load(path, given, _plugins()[0], data_only=True)
    elif path is not None:
        given = [str(path), *given]
    return load_text("", "command line", given, _plugins()[0], data_only=True)


def check_data(config: Config, reporter: Reporter, *, split: str | None = None, read_images: bool = True) -> RunResult:
    """Look for everything that can be wrong with the data of a config; `data_check.json` in a new folder has it all.

    Args:
        split: only this one.
        read_images: False leaves out what needs the image files.

    Returns:
        `failed` when a finding is an error.
    """
    from stdet.data.source import DataSource
    from stdet.datatools.check import check_dataset
    from stdet.datatools.splits import splits_of
    from stdet.datatools.tables import findings_table
    from stdet.quantizing.data_check import calibration_findings

    source = DataSource(config, _plugins()[0])
    splits = (split,) if split else splits_of(source)
    document = check_dataset(source, splits, read_images, calibration_findings, reporter)
    folder = new_folder(config.tool_dir)
    path = folder / "data_check.json"
    write_json(path, document)
    failed = document["counts"]["error"] > 0
    return RunResult(folder, document | {"file": str(path)}, [findings_table(document)], failed)


def describe_data(config: Config, reporter: Reporter, *, split: str | None = None) -> RunResult:
    """Count and measure what the annotations say: a table, `data_stats.json` and `data_stats.png` in a new folder.

    Faults are left out and told, and so is the picture without matplotlib.

    Raises:
        StdetError: a split can't be opened.
    """
    from stdet.data.source import DataSource
    from stdet.datatools.splits import open_with_all_classes, splits_of
    from stdet.datatools.stats import describe
    from stdet.datatools.tables import statistics_tables

    source = DataSource(config, _plugins()[0])
    opened = open_with_all_classes(source, (split,) if split else splits_of(source))
    for one in opened:
        if one.faults.counts:
            reporter.note(f"{one.name} set: {one.faults.summary()}; `stdet data check` says more")
    with tool_folder(config.tool_dir) as folder:
        picture = folder / "data_stats.png" if has("matplotlib") else None
        if picture is None:
            reporter.note(f"no picture of the statistics: matplotlib is not installed ({command('matplotlib')})")
        document = describe(opened, picture)
        write_json(folder / "data_stats.json", document)
    return RunResult(folder, document, statistics_tables(document["splits"]))


def preview_data(config: Config, reporter: Reporter, *, count: int = 12, epoch: int = 0) -> RunResult:
    """Draw the first training samples of an epoch as the trainer gets them, into `data_preview.png` in a new folder.

    Raises:
        StdetError: the config names no model, or the data can't be read.
    """
    from stdet.build import Builder
    from stdet.datatools.preview import preview

    with tool_folder(config.tool_dir) as folder:
        document = preview(Builder(config, _plugins()[0]), count, epoch, folder / "data_preview.png", reporter)
        write_json(folder / "data_preview.json", document)
    return RunResult(folder, document, [])


def write_data(
    config: Config,
    reporter: Reporter,
    output: Path,
    *,
    to: str | None = None,
    image_files: Literal["reference", "link", "copy"] = "reference",
    split: str | None = None,
    **selection: Any,
) -> RunResult:
    """Write the data set of a config, or the selected part of it, in another format or the same.

    Args:
        output: folder; must not exist yet.
        to: registered format; the source's own when None.
        image_files: whether images stay where they are, or are hard-linked or copied into `output`.
        split: only this one; None takes every split that the config names.
        selection: see `stdet.datatools.write.Selection`.

    Raises:
        StdetError: see `stdet.datatools.write.write_dataset`; nothing is written then.
    """
    from stdet.data.source import DataSource
    from stdet.datatools.splits import splits_of
    from stdet.datatools.tables import written_table
    from stdet.datatools.write import Output, Selection, write_dataset

    source = DataSource(config, _plugins()[0])
    splits = (split,) if split else splits_of(source)
    target = Output(output, to or str(config.dataset.dataset_name), image_files)
    document = write_dataset(source, splits, Selection(**selection), target, reporter)
    return RunResult(output, document, [written_table(document["splits"])])


def split_data(
    config: Config,
    reporter: Reporter,
    output: Path,
    *,
    val: float = 0.2,
    test: float = 0.0,
    seed: int = 0,
    split: str | None = None,
) -> RunResult:
    """Divide a data set into training, validation and test images; the images and their annotations are left alone.

    Args:
        output: folder for the lists, or annotation files, of each side; must not exist yet.
        val, test: a share below 1, or a number of images; 0 makes no such side.
        seed: of the draw.
        split: which one to divide; None takes the only one that the config names.

    Raises:
        StdetError: see `stdet.datatools.split.split_dataset`; nothing is written then.
    """
    from stdet.data.source import DataSource
    from stdet.datatools.split import Shares, split_dataset
    from stdet.datatools.tables import split_table

    document = split_dataset(DataSource(config, _plugins()[0]), split, Shares(val, test), seed, output, reporter)
    return RunResult(output, document, [split_table(document)])


def propose_config(
    source: Path,
    reporter: Reporter,
    output: Path,
    *,
    board: str | None = None,
    format_name: str | None = None,
    model: str | None = None,
    latency_ms: float | None = None,
) -> RunResult:
    """Write a first config for a folder of photographs and annotations, with a reason at each value.

    A set that isn't split gets lists, or annotation files, of three sides in a folder beside the config.

    Args:
        source: folder in a layout that a reader knows, or a config whose `dataset` section names the images.
        output: YAML file; must not exist yet.
        board: that shall hold the network; None knows no limit.
        format_name: registered reader, where a folder holds annotations of several.
        model: registered; None chooses.
        latency_ms: the longest that an inference may take.

    Returns:
        `failed` when the doctor finds errors in the data: the config is there, but a training would stop at them.

    Raises:
        StdetError: no annotations, no model that fits, or files that exist.
    """
    from stdet.datatools.tables import findings_table
    from stdet.starting.first import Wishes, write_first_config

    data = load_data_config(source, (), DataPaths(format_name))
    made = write_first_config(data, _plugins()[0], Wishes(board, model, latency_ms), output, reporter)
    document = made.document() | {"config": str(output)}
    return RunResult(output, document, [findings_table(made.check), made.table()], made.check["counts"]["error"] > 0)
