"""Start-up of the command, wall time of whole processes.

Claim: `stdet --help` takes at most twice a bare Typer hello-world, since neither torch nor mmengine is imported.
Run: python benchmarks/startup.py
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from harness import arguments, interleave, report, save

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
            return lambda: subprocess.run(command, check=True, capture_output=True)

        variants = {
            "bare Typer --help": process(sys.executable, str(hello), "--help"),
            "stdet --help": process(stdet, "--help"),
            "stdet list models": process(stdet, "list", "models"),
            "stdet plugins": process(stdet, "plugins"),
        }
        save(args.json, [report("start-up", interleave(variants, args.rounds), "bare Typer --help")])


if __name__ == "__main__":
    main()
