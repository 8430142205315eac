"""`stdet runs …`: what earlier runs left."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stdet_cli.session import session

app = typer.Typer(help="List, show, compare, verify and prune runs.", no_args_is_help=True, rich_markup_mode=None)

RUNS = Path("experiments_outputs")
Folder = Annotated[Path, typer.Argument(metavar="[FOLDER]", help="folder of runs, or one run")]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="folder of a run")]
Json = Annotated[bool, typer.Option("--json", help="print one JSON document on stdout and nothing else there")]


@app.command("list")
def list_(folder: Folder = RUNS, as_json: Json = False) -> None:
    """One line a run: when, what, how far, scores, drop, size, latency."""
    with session(as_json) as ui:
        from stdet import api

        ui.result(api.list_runs(folder), wrote=False)


@app.command()
def show(run: Run, as_json: Json = False) -> None:
    """The stages of a run, its data, where it ran, its results."""
    with session(as_json) as ui:
        from stdet import api

        ui.result(api.show_run(run), wrote=False)


@app.command()
def diff(one: Run, other: Run, as_json: Json = False) -> None:
    """What differs between two runs: config, data, versions, results."""
    with session(as_json) as ui:
        from stdet import api

        ui.result(api.compare_runs(one, other), wrote=False)


@app.command()
def verify(
    folders: Annotated[
        list[Path] | None, typer.Argument(metavar="[FOLDER]...", help="runs, or folders of runs")
    ] = None,
    as_json: Json = False,
) -> None:
    """Hold every file against its hash; exit code 2 on a fault."""
    with session(as_json) as ui:
        from stdet import api

        ui.result(api.verify_runs(folders or [RUNS]), wrote=False)


@app.command()
def prune(
    folder: Folder = RUNS,
    yes: Annotated[bool, typer.Option("--yes", help="delete; without it, only tell")] = False,
    as_json: Json = False,
) -> None:
    """What nothing needs any more: checkpoints, left-overs."""
    with session(as_json) as ui:
        from stdet import api

        ui.result(api.prune_runs(folder, delete=yes), wrote=False)
