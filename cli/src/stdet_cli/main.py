"""The `stdet` command: parses, calls one function of `stdet.api`, renders. Imports torch only when a stage runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from stdet.errors import ConfigError
from stdet_cli import completion, data, plugins, runs
from stdet_cli.session import session

DEMO = Path(__file__).with_name("demo.yaml")
USAGE_ERROR: Any = typer.BadParameter.__base__
"""What Typer raises for every wrong option or argument; it exports only this child of it."""

app = typer.Typer(
    name="stdet",
    help="Train, evaluate, quantize and bench object detectors for STM32. "
    "--plugin FILE.py, anywhere, loads a plugin of one file.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="print the versions of all that is installed")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="with --version: as one JSON document")] = False,
) -> None:
    """Train, evaluate, quantize and bench object detectors for STM32."""
    if version:
        with session(as_json) as ui:
            from stdet import api

            found = api.versions()
            ui.text("".join(f"{name} {number}\n" for name, number in found.items()), found)
        raise typer.Exit


config_app = typer.Typer(help="Check, show and explain config files.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(config_app, name="config")
app.add_typer(data.app, name="data")
app.add_typer(plugins.app, name="plugins")
app.add_typer(runs.app, name="runs")

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML config file")]
ModelOrConfig = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL | CONFIG", help="ONNX file or checkpoint, told by what it holds; or YAML config file"
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="values on top of it, such as training.epochs=3",
        autocompletion=completion.overrides,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="print one JSON document on stdout and nothing else there")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="show log messages on stderr")]


TimeBudget = Annotated[
    str | None,
    typer.Option("--time-budget", metavar="TIME", help="begin no epoch that would end later: 90s, 30m, 1.5h"),
]


def _budget(overrides: list[str] | None, time_budget: str | None) -> list[str]:
    return [*(overrides or ()), *([f"training.time_budget={time_budget}"] if time_budget else ())]


def _run(config: Path, overrides: list[str] | None, mode: str | None, as_json: bool, verbose: bool) -> None:
    with session(as_json, verbose) as ui:
        from stdet import api

        ui.result(api.run(api.load_config(config, overrides or (), mode), ui.reporter))


def _work_on(
    what: Path,
    overrides: list[str] | None,
    options: Mapping[str, object],
    mode: str,
    as_json: bool,
    verbose: bool,
) -> None:
    """Do `mode` with a model or config; `options` are config keys, those without a value left out."""
    with session(as_json, verbose) as ui:
        from stdet import api

        given = [
            f"{key}={json.dumps(str(value), ensure_ascii=False)}" for key, value in options.items() if value is not None
        ]
        ui.result(api.run(api.load_command(what, [*(overrides or ()), *given], mode), ui.reporter))


@app.command()
def init(
    source: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="images and annotations, or a config that names them")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="config to write; must not exist yet")] = Path(
        "training.yaml"
    ),
    board: Annotated[str | None, typer.Option(help="that the model shall run on; `stdet list targets`")] = None,
    latency_ms: Annotated[float | None, typer.Option(min=0, help="the longest that an inference may take")] = None,
    model: Annotated[str | None, typer.Option(help="this model; default: the first that fits")] = None,
    format_name: Annotated[
        str | None, typer.Option("--format", help="of the annotations, where there are several; `stdet list datasets`")
    ] = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Write a first config for a folder of annotated photographs. Model, size and training, each with its reason."""
    with session(as_json, verbose) as ui:
        from stdet import api

        made = api.propose_config(
            source,
            ui.reporter,
            output,
            board=board,
            format_name=format_name,
            model=model,
            latency_ms=latency_ms,
        )
        ui.result(made)


@app.command()
def run(
    config: Annotated[Path | None, typer.Argument(metavar="[CONFIG]", help="YAML config file")] = None,
    overrides: Overrides = None,
    time_budget: TimeBudget = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", metavar="RUN", help="go on with the run of this folder, as it was begun")
    ] = None,
    config_path: Annotated[
        Path | None, typer.Option("--config-path", help="folder of the config, as the reference's command takes it")
    ] = None,
    config_name: Annotated[
        str | None, typer.Option("--config-name", help="its name in that folder, with or without .yaml")
    ] = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Do what operation_mode in CONFIG says."""
    with session(as_json, verbose) as ui:
        from stdet import api

        if resume is not None:
            if config or overrides or time_budget or config_path or config_name:
                raise ConfigError("a run goes on with its own config", f"stdet run --resume {resume}, and nothing else")
            ui.result(api.resume(resume, ui.reporter))
            return
        path, given = api.named_config(config, overrides or (), config_path, config_name)
        ui.result(api.run(api.load_config(path, _budget(given, time_budget)), ui.reporter))


@app.command()
def train(
    config: ConfigFile,
    overrides: Overrides = None,
    time_budget: TimeBudget = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Train a model and export its best weights to ONNX."""
    _run(config, _budget(overrides, time_budget), "training", as_json, verbose)


@app.command()
def evaluate(
    what: ModelOrConfig,
    overrides: Overrides = None,
    images: Annotated[Path | None, typer.Option(help="short for dataset.test_images_path=…")] = None,
    annotations: Annotated[Path | None, typer.Option(help="short for dataset.test_annotations_path=…")] = None,
    format_name: Annotated[str | None, typer.Option("--format", help="short for dataset.dataset_name=…")] = None,
    baseline: Annotated[
        Path | None, typer.Option(help="report of another run to compare with; short for evaluation.baseline=…")
    ] = None,
    min_ap: Annotated[
        float | None, typer.Option(help="fail when AP, 0..1, is below; short for evaluation.min_ap=…")
    ] = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Score a checkpoint or an ONNX file by COCO's rules. The ONNX may be float or int8."""
    keys = {
        "dataset.test_images_path": images,
        "dataset.test_annotations_path": annotations,
        "dataset.dataset_name": format_name,
        "evaluation.baseline": baseline,
        "evaluation.min_ap": min_ap,
    }
    _work_on(what, overrides, keys, "evaluation", as_json, verbose)


@app.command()
def export(what: ModelOrConfig, overrides: Overrides = None, as_json: Json = False, verbose: Verbose = False) -> None:
    """Write the ONNX file of a checkpoint."""
    _work_on(what, overrides, {}, "export", as_json, verbose)


@app.command()
def quantize(
    what: ModelOrConfig,
    overrides: Overrides = None,
    images: Annotated[
        Path | None, typer.Option(help="folder to calibrate on; short for dataset.quantization_path=…")
    ] = None,
    max_drop: Annotated[
        float | None, typer.Option(help="fail when int8 loses more points than this; short for quantization.max_drop=…")
    ] = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Write the int8 form of a checkpoint or an ONNX file."""
    keys = {"dataset.quantization_path": images, "quantization.max_drop": max_drop}
    _work_on(what, overrides, keys, "quantization", as_json, verbose)


@app.command()
def predict(
    what: ModelOrConfig,
    source: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SOURCE] [KEY=VALUE]...",
            help="what to look at, short for dataset.prediction_path=…, and values on top of the config",
            autocompletion=completion.overrides,
        ),
    ] = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Detect in images, a folder, a video, or before a camera."""
    given = list(source or ())
    named = bool(given) and ("=" not in given[0] or Path(given[0]).exists())
    keys = {"dataset.prediction_path": given.pop(0) if named else None}
    _work_on(what, given, keys, "prediction", as_json, verbose)


@app.command()
def bench(
    what: Annotated[list[str], typer.Argument(metavar="MODEL.onnx... | CONFIG [KEY=VALUE]...")],
    board: Annotated[
        str | None, typer.Option(help="what it is for; `stdet list targets`", autocompletion=completion.boards)
    ] = None,
    backend: Annotated[str | None, typer.Option(help="how to find out, such as host,estimate")] = None,
    images: Annotated[Path | None, typer.Option(help="folder of images that the emulator feeds")] = None,
    output: Annotated[Path, typer.Option(help="folder for the results, where ONNX files are named")] = Path(
        "bench_results"
    ),
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Say what a model costs on a board, in time and memory. Also where each layer runs."""
    with session(as_json, verbose) as ui:
        from stdet import api

        backends = backend.split(",") if backend else []
        ui.result(api.bench(what, ui.reporter, board=board, backends=backends, images=images, output=output))


@app.command()
def fit(
    config: ConfigFile,
    overrides: Overrides = None,
    board: Annotated[
        str | None, typer.Option(help="short for benchmarking.board=…", autocompletion=completion.boards)
    ] = None,
    latency_ms: Annotated[float | None, typer.Option(min=0, help="the longest that an inference may take")] = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Say before any training whether a model will fit a board. And which smaller one does; exit code 2 when not."""
    with session(as_json, verbose) as ui:
        from stdet import api

        named = [] if board is None else [f"benchmarking.board={board}"]
        ui.result(api.fit(api.load_data_config(config, [*(overrides or ()), *named]), ui.reporter, latency_ms))


@app.command()
def deploy(
    what: Annotated[Path, typer.Argument(metavar="MODEL.onnx | CONFIG", help="int8 ONNX file, or YAML config file")],
    overrides: Overrides = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Write the folder that a firmware engineer takes. It holds int8 model, C code, headers, README, test vector."""
    with session(as_json, verbose) as ui:
        from stdet import api

        ui.result(api.run(api.load_command(what, overrides or (), "deployment"), ui.reporter))


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="folder for the results")] = Path("demo_output"),
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Do the whole chain in minutes, on generated images. Train, quantize, evaluate, bench."""
    with session(as_json, verbose) as ui:
        from stdet import api

        config = api.load_config(DEMO, [f"hydra.run.dir={json.dumps(str(output))}"])
        ui.result(api.run(config, ui.reporter))


@app.command("list")
def list_components(
    kind: Annotated[Literal["models", "datasets", "transforms", "schedulers", "targets"], typer.Argument()],
    as_json: Json = False,
) -> None:
    """List models, datasets, transforms, schedulers or targets."""
    with session(as_json) as ui:
        from stdet import api

        ui.records(api.list_components(kind), ["name", "summary", "distribution", "state", "reason"])


@config_app.command("check")
def config_check(config: ConfigFile, overrides: Overrides = None, as_json: Json = False) -> None:
    """Report every mistake of a config."""
    with session(as_json) as ui:
        from stdet import api

        ui.checked(config, api.check_config(config, overrides or ()))


@config_app.command("show")
def config_show(config: ConfigFile, overrides: Overrides = None, as_json: Json = False) -> None:
    """Print a config with every default filled in."""
    with session(as_json) as ui:
        from stdet import api

        checked = api.load_config(config, overrides or ())
        ui.text(api.config_yaml(checked), api.config_document(checked))


@config_app.command("convert")
def config_convert(
    config: Annotated[Path, typer.Argument(metavar="OLD.yaml", help="config of the reference, or of an older dialect")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="YAML file to write; default: OLD.stdet.yaml, here")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a config of ST's model zoo as one of ours.

    There is a comment at each change. Exit code 2 when something is left for you to mend.
    """
    with session(as_json) as ui:
        from stdet import api

        ui.result(api.convert_config(config, output or Path(f"{config.stem}.stdet.yaml")))


@config_app.command("plot-schedule")
def config_plot_schedule(
    config: ConfigFile,
    overrides: Overrides = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="PNG to write")] = Path("schedule.png"),
    steps_per_epoch: Annotated[
        int | None, typer.Option(min=1, help="optimizer steps an epoch; default: counted from the training images")
    ] = None,
    as_json: Json = False,
) -> None:
    """Draw the learning rate of a training, without training."""
    with session(as_json) as ui:
        from stdet import api

        drawn = api.plot_schedule(api.load_config(config, overrides or ()), output, steps_per_epoch)
        ui.text(f"{output}: {drawn['epochs']} epochs of {drawn['steps_per_epoch']} steps\n", drawn)


@config_app.command("schema")
def config_schema(
    config: Annotated[Path | None, typer.Argument(metavar="[CONFIG]", help="only the keys that fit this file")] = None,
    overrides: Overrides = None,
) -> None:
    """Print the JSON Schema of all keys. Those of the installed components are included."""
    with session(as_json=True) as ui:
        from stdet import api

        ui.document(api.config_schema(api.load_config(config, overrides or ()) if config else None))


def main() -> None:
    """Entry point of the command. A wrong option is a mistake like any other: with `--json`, it is told as a document."""
    arguments = sys.argv[1:]
    if any(word.partition("=")[0] == "--plugin" for word in arguments):
        with session("--json" in arguments):
            from stdet import api

            arguments = api.take_plugin_files(arguments)
    try:
        sys.exit(app(arguments, standalone_mode=False))
    except USAGE_ERROR as error:
        as_json = "--json" in sys.argv
        if not as_json and error.format_message().startswith("Usage:"):  # a group without a command shows its help
            sys.stderr.write(f"{error.format_message()}\n")
            sys.exit(2)
        with session(as_json):
            raise ConfigError(error.format_message(), f"{error.ctx.command_path} --help") from error


if __name__ == "__main__":
    main()
