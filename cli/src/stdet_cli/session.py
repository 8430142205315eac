"""One invocation: what goes to stdout and stderr, and the exit code.

0 success, 2 a mistake of the user's, 1 a bug, 130 stopped by the user, 141 nobody reads any more.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from stdet.errors import Interrupted, StdetError
from stdet.interfaces.printable import printable, printable_json

if TYPE_CHECKING:
    from stdet.api import RunResult
    from stdet.config import Config
    from stdet.interfaces.reporter import Reporter


USUAL = {"", "available"}
"""What a column of a list needn't say."""


class Session:
    """Renders results: tables for people, or one JSON document for programs."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._stdout: TextIO = sys.stdout  # of its own, since `apart` sends everybody else's elsewhere
        self._reporter: Reporter | None = None
        self._main = os.environ.get("RANK", "0") == "0"  # torchrun's other processes show nothing but their errors

    @property
    def reporter(self) -> Reporter:
        """Shows progress on stderr."""
        if self._reporter is None:
            from stdet_cli.reporters import make_reporter

            self._reporter = make_reporter(quiet=self._as_json)
        return self._reporter

    def close(self) -> None:
        """End the progress display, so that what follows stands below it."""
        if self._reporter is not None:
            self._reporter.stage("")

    def document(self, document: object) -> None:
        """Print JSON on stdout."""
        if self._main:
            self._stdout.write(printable_json(json.dumps(document, indent=2, ensure_ascii=False)) + "\n")
            self._stdout.flush()

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Keeps stdout for the document: what a library, a plugin or a child process prints meanwhile goes to stderr."""
        sys.stdout.flush()
        try:
            own = os.dup(sys.stdout.fileno())
        except (OSError, ValueError):  # stdout is no file, as under a test runner
            with redirect_stdout(sys.stderr):
                yield
            return
        self._stdout = os.fdopen(own, "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors)
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        try:
            with redirect_stdout(sys.stderr):
                yield
        finally:
            os.dup2(own, sys.stdout.fileno())

    def silence(self) -> None:
        """Nobody reads stdout any more: write the rest of it nowhere, else the flush at exit complains."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in {sys.stdout, self._stdout}:
            os.dup2(nowhere, stream.fileno())

    def text(self, text: str, document: object) -> None:
        """`text` for people, `document` for programs."""
        if self._as_json:
            self.document(document)
        else:
            sys.stdout.write(printable(text))

    def result(self, result: RunResult, *, wrote: bool = True) -> None:
        """The outcome of a run; `wrote` says whether it left anything in its folder."""
        self.close()
        if self._as_json:
            self.document(result.document)
        elif self._main:
            for table in result.tables:
                self.table(table.title, table.columns, table.rows)
            if wrote:
                sys.stdout.write(printable(f"everything is in {result.run_dir}\n"))
        if result.failed:
            sys.exit(2)

    def records(self, items: Sequence[Any], columns: list[str]) -> None:
        """Dataclass instances as rows; a column that no row fills, or all with what is usual, is left out."""
        if self._as_json:
            self.document([dataclasses.asdict(item) for item in items])
            return
        rows = [[str(getattr(item, column, "")) for column in columns] for item in items]
        used = [i for i in range(len(columns)) if not {row[i] for row in rows} <= USUAL]
        self.table("", [columns[i] for i in used], [[row[i] for i in used] for row in rows])

    def findings(self, items: Sequence[Any], columns: list[str], everything: bool) -> None:
        """As `records`; those with the verdict `ok` are only counted for people, unless `everything` is to be shown. The
        exit code says whether one has the verdict `fault`."""
        fine = [item for item in items if item.verdict == "ok"]
        if self._as_json or everything or len(fine) < len(items):
            self.records([i for i in items if self._as_json or everything or i.verdict != "ok"], columns)
        if not self._as_json:
            sys.stdout.write(f"{len(fine)} of {len(items)} are all right\n")
        if any(item.verdict == "fault" for item in items):
            sys.exit(2)

    def checked(self, path: Path, config: Config) -> None:
        """A config without mistakes."""
        if self._as_json:
            self.document({"file": str(path), "valid": True, "notes": list(config.notes)})
            return
        for note in config.notes:
            sys.stdout.write(printable(f"note: {note}\n"))
        sys.stdout.write(printable(f"{path}: no mistakes\n"))

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table on stdout: drawn on a terminal, tab-separated elsewhere."""
        title, rows = printable(title, ""), [[printable(cell, "") for cell in row] for row in rows]
        if not sys.stdout.isatty():
            if title:
                sys.stdout.write(f"# {title}\n")
            for row in (columns, *rows):
                sys.stdout.write("\t".join(row) + "\n")
            return
        from rich.console import Console

        from stdet_cli.tables import drawn

        console = Console()
        console.print(drawn(title, columns, rows, console.width))

    def error(self, error: StdetError) -> None:
        """A mistake of the user's."""
        self.close()
        result: RunResult | None = getattr(error, "result", None)
        hints = [*([error.hint] if error.hint else []), *getattr(error, "__notes__", ())]
        if result is not None and not self._as_json:
            self.result(result)
        if self._as_json:
            problems = [dataclasses.asdict(p) for p in getattr(error, "problems", ())]
            about = {"error": {"message": error.message, "hint": "\n".join(hints), "problems": problems}}
            self.document(about | (result.document if result is not None else {}))
        sys.stderr.write(printable("".join([f"error: {error.message}\n", *(f"hint: {hint}\n" for hint in hints)])))


class _Lines(logging.Formatter):
    """Log lines for people."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


@contextmanager
def session(as_json: bool = False, verbose: bool = False) -> Iterator[Session]:
    """Run one command; ends the process with the right code when it fails."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(logging.INFO if verbose else logging.WARNING)
    handler.setFormatter(_Lines("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(handlers=[handler])
    ui = Session(as_json)
    try:
        with ui.apart() if as_json else nullcontext():
            yield ui
        sys.stdout.flush()
    except Interrupted as stopped:
        ui.error(stopped)
        sys.exit(130)
    except StdetError as mistake:
        ui.error(mistake)
        sys.exit(2)
    except KeyboardInterrupt as stopped:
        ui.error(Interrupted("stopped", "\n".join(getattr(stopped, "__notes__", ()))))
        sys.exit(130)
    except BrokenPipeError:  # whoever reads, such as `head`, has seen enough
        ui.silence()
        sys.exit(141)
    except Exception as error:
        from stdet import api

        ui.close()
        plugin = api.blamed_plugin(error)
        whose = f"{plugin}, a plugin that is not stdet's" if plugin else "stdet"
        sys.stderr.write(printable(traceback.format_exc()))
        sys.stderr.write(f"this is a bug in {whose}: please report it with the traceback above and the config\n")
        if as_json:
            ui.document(
                {"error": {"message": traceback.format_exc(limit=1), "hint": f"a bug in {whose}", "problems": []}}
            )
        sys.exit(1)
