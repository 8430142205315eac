"""`stdet plugins …`: what is installed, what is wrong with it, new ones. All of it works however broken a plugin is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from stdet_cli.session import session

Json = Annotated[bool, typer.Option("--json", help="print one JSON document on stdout and nothing else there")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="entry point or distribution; `stdet plugins` lists them")]


class _NameMeansShow(TyperGroup):
    """`stdet plugins NAME` is `stdet plugins show NAME`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            args = ["show", *args]
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=_NameMeansShow,
    help="List, look at, check and begin plugins. `stdet plugins NAME` shows what one registers.",
    rich_markup_mode=None,
    invoke_without_command=True,
)


@app.callback()
def list_plugins(context: typer.Context, as_json: Json = False) -> None:
    """List the plugins found. How long each took to import, and why one isn't loaded. STDET_PLUGINS=a,b narrows them;
    `stdet plugins NAME` shows what one registers."""
    if context.invoked_subcommand is not None:
        return
    with session(as_json) as ui:
        from stdet import api

        ui.records(api.plugins(), ["name", "distribution", "version", "state", "import_ms", "reason"])


@app.command()
def show(name: Name, as_json: Json = False) -> None:
    """List what a plugin registers: `stdet plugins NAME` does the same."""
    with session(as_json) as ui:
        from stdet import api

        columns = ["kind", "name", "summary", "target", "family", "facts", "options", "writer", "distribution"]
        ui.records(api.registered_by(name), columns)


@app.command()
def check(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="entry point or distribution; default: all")
    ] = None,
    timeout: Annotated[float, typer.Option(min=1, help="how long one import may take, seconds")] = 60,
    everything: Annotated[bool, typer.Option("--all", help="show what is all right, too")] = False,
    as_json: Json = False,
) -> None:
    """Import all that plugins name and say what is wrong. Each in a process of its own; exit code 2 when something is."""
    with session(as_json) as ui:
        from stdet import api

        ui.findings(api.check_plugins(name, timeout), ["plugin", "what", "verdict", "finding", "ms"], everything)


@app.command()
def disable(name: Name) -> None:
    """Leave a plugin out of every later command, without importing it."""
    with session() as ui:
        from stdet import api

        path = api.set_plugin_disabled(name, True)
        ui.text(f"`{name}` is disabled, as {path} says; `stdet plugins enable {name}` undoes it\n", None)


@app.command()
def enable(name: Name) -> None:
    """Load a disabled plugin again."""
    with session() as ui:
        from stdet import api

        ui.text(f"`{name}` is enabled, as {api.set_plugin_disabled(name, False)} says\n", None)


@app.command()
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="of the distribution, such as acme-detectors")],
    kind: Annotated[
        Literal["model", "dataset", "transform", "scheduler", "target", "board"],
        typer.Option(help="what its first component is"),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="folder to make it in")] = Path(),
    licence: Annotated[
        Literal["Apache-2.0", "MIT", "BSD-3-Clause", "proprietary"], typer.Option(help="under which it is published")
    ] = "Apache-2.0",
    author: Annotated[str, typer.Option(help="who holds the rights; default: `The authors of NAME`")] = "",
    as_json: Json = False,
) -> None:
    """Write a package with one working component. Its contract test, README and licence are there, too."""
    with session(as_json) as ui:
        from stdet import api

        made = api.new_plugin(name, kind, output, licence, author)
        steps = f"cd {made.folder}\npip install -e '.[test]'\npytest\nstdet plugins check {made.name}\n"
        ui.text(f"{made.folder} is written: {', '.join(made.files)}\n\n{steps}", made.document())
