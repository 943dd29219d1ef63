"""Build the package and try it in fresh environments: `make package`, or `python .ci/package.py dist/*` to try files.

Each wheel and sdist is installed with nothing but its own dependencies, in an environment of its own, by this Python.
There the public names are imported, the commands that need no runtime are run, and pytest is asked for the plugin.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
IMPORT = "from parity import Cell, Plan, RunRecord, Target, compare, register_metric, render, verify"
COMMANDS = (  # arguments of parity, and the exit code that is right where there is neither torch nor a runtime
    (("--help",), 0),
    (("--version",), 0),
    (("doctor",), 1),
    (("schema", "config"), 0),
    (("schema", "record"), 0),
    (("completion", "bash"), 0),
    (("tools", "list"), 0),
)


def main(files: list[str]) -> int:
    if not files:
        files = [str(file) for file in built()]
    for file in files:
        tried(Path(file).resolve())
    return 0


def built() -> list[Path]:
    """The wheel and the sdist of the checkout, in dist/, which is emptied first."""
    folder = ROOT / "dist"
    shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryDirectory() as scratch:
        python = environment(scratch)
        run([python, "-m", "pip", "install", "--quiet", "build"], scratch)
        run([python, "-m", "build", "--outdir", str(folder), str(ROOT)], scratch)
    return sorted(folder.iterdir())


def tried(file: Path) -> None:
    """Install one file in a fresh environment and use it there."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        python = environment(scratch)
        run([python, "-m", "pip", "install", "--quiet", str(file)], scratch)
        run([python, "-c", IMPORT], scratch)
        for arguments, code in COMMANDS:
            run([str(Path(python).with_name("parity")), *arguments], scratch, code)
        if "--parity-profile" not in run([python, "-m", "pytest", "--help"], scratch):
            sys.exit(f"{file.name}: pytest does not know the plugin")
    version = ".".join(map(str, sys.version_info[:3]))
    size = f"{file.stat().st_size:,} bytes"
    print(f"Python {version}: {file.name}, {size}: installed and used in {time.monotonic() - start:.0f} s", flush=True)


def environment(folder: str) -> str:
    """The interpreter of a new environment below `folder`."""
    run([sys.executable, "-m", "venv", str(Path(folder, "env"))], folder)
    return str(Path(folder, "env", "bin", "python"))


def run(command: list[str], folder: str, code: int = 0) -> str:
    """What a command prints, in a folder away from the checkout. Ends the program where it exits otherwise."""
    environ = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False)
    if done.returncode != code or "Traceback" in done.stderr:
        sys.exit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
