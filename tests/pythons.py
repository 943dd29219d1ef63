"""The pure core on every supported Python that this machine has: `python -m tests.pythons [3.10 3.12 ...]`.

Plan, compare, limits, gate, record, report and capsules promise to run without torch and without any converter, on
Python 3.10 to 3.13. Each interpreter gets an environment with the package's own dependencies only, and runs the tests
of that core. An interpreter that is not here is named, and is no failure; none at all is one.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
SUPPORTED = ("3.10", "3.11", "3.12", "3.13")
TORCH = re.compile(r"^(import|from) (torch|fixtures)|importorskip..torch", re.MULTILINE)
PAGES = ("page", "summary", "words")


def tests() -> list[str]:
    """The unit tests that need no torch, and those of the report that need no browser."""
    unit = [p for p in sorted(ROOT.glob("tests/unit/test_*.py")) if not TORCH.search(p.read_text(encoding="utf-8"))]
    return [str(p.relative_to(ROOT)) for p in unit] + [f"tests/report/test_report_{name}.py" for name in PAGES]


def interpreter(version: str) -> Path | None:
    """A Python of that version on the PATH or among pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = [Path(p) for p in (shutil.which(f"python{version}"),) if p]
    found += sorted(pyenv.glob(f"{version}.*/bin/python{version}"))
    for candidate in found:
        asked = [candidate, "-c", "import sys; print(sys.version_info[:2])"]
        done = subprocess.run(asked, capture_output=True, text=True, check=False)
        if done.returncode == 0 and done.stdout.strip() == f"({version.replace('.', ', ')})":
            return candidate
    return None


def passes(version: str, python: Path) -> bool:
    """Whether the core's tests pass under `python`, in an environment made for the purpose."""
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run([python, "-m", "venv", scratch], check=True)
        own = Path(scratch, "bin", "python")
        subprocess.run([own, "-m", "pip", "install", "--quiet", str(ROOT)], check=True)
        command = [
            own,
            "-m",
            "pytest",
            "-q",
            "-n",
            "auto",
            "-p",
            "no:cacheprovider",
            "-m",
            "not nightly",
            "-rfE",
            *tests(),
        ]
        code = subprocess.run(command, cwd=ROOT, check=False).returncode
    print(f"Python {version}: {'pass' if code == 0 else f'pytest exit {code}'}", flush=True)
    return code == 0


def main(chosen: list[str]) -> int:
    results = []
    for version in chosen or SUPPORTED:
        python = interpreter(version)
        if python is None:
            print(f"Python {version}: not on this machine")
        else:
            results.append(passes(version, python))
    return 0 if results and all(results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
