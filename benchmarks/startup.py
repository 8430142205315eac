"""Start-up of the command, processor time of whole processes.

Claims: `stdet --help` takes at most twice a bare Typer hello-world, since neither torch nor mmengine is imported; a list
takes at most 1.8 times `stdet --help`, since neither numpy nor pydantic is, and `stdet config check` at most 4 times.
Run: python benchmarks/startup.py
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from harness import arguments, interleave, report, save

from stdet_cli.main import DEMO

HELLO = """
import typer
app = typer.Typer()
@app.command()
def hello(name: str = "world"): ...
app()
"""


def main() -> None:
    args = arguments(__doc__ or "", rounds=15)
    stdet = str(Path(sys.executable).with_name("stdet"))
    with tempfile.TemporaryDirectory() as folder:
        hello = Path(folder) / "hello.py"
        hello.write_text(HELLO)

        def process(*command: str) -> Callable[[], object]:
            def seconds() -> float:
                before = os.times()
                subprocess.run(command, check=True, capture_output=True)
                after = os.times()
                return sum(after[2:4]) - sum(before[2:4])

            return seconds

        variants = {
            "bare Typer --help": process(sys.executable, str(hello), "--help"),
            "stdet --help": process(stdet, "--help"),
            "stdet list models": process(stdet, "list", "models"),
            "stdet list targets": process(stdet, "list", "targets"),
            "stdet plugins": process(stdet, "plugins"),
            "stdet config check": process(stdet, "config", "check", str(DEMO)),
        }
        save(args.json, [report("start-up", interleave(variants, args.rounds), "stdet --help")])


if __name__ == "__main__":
    main()
