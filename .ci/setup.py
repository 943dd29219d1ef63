"""Set .venv up: `make setup`, with whatever Python from 3.10 to 3.13 runs this.

By uv, which is installed into .venv where it is not on PATH, and by pip where uv cannot be had or does not succeed. On
Python 3.11 .venv holds the converters. On another the toolchains that cells of this repository need are made in the
user's cache folder; one that cannot be made is told, and its cells go by another route or are `unavailable`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
PYTHON = ROOT / ".venv" / "bin" / "python"
SUPPORTED = ((3, 11), (3, 10), (3, 12), (3, 13))
FOR_UV = {  # whoever told pip where packages are meant uv, too
    "PIP_INDEX_URL": "UV_DEFAULT_INDEX",
    "PIP_EXTRA_INDEX_URL": "UV_INDEX",
    "PIP_FIND_LINKS": "UV_FIND_LINKS",
    "PIP_CERT": "SSL_CERT_FILE",
    "PIP_NO_INDEX": "UV_NO_INDEX",
}


def main() -> int:
    here = sys.version_info[:2]
    if here not in SUPPORTED:
        print(f"error: make needs Python 3.10 to 3.13, this is {here[0]}.{here[1]}: set PYTHON=path/to/python3.11")
        return 1
    print("Setting up .venv: about 3.5 GB of converters and runtimes, once. This takes a minute or more.", flush=True)
    start = time.monotonic()
    subprocess.run([sys.executable, "-m", "venv", str(ROOT / ".venv")], check=True)
    constraints = ROOT / "constraints.txt" if here == (3, 11) else ROOT / "constraints" / f"{here[0]}.{here[1]}.txt"
    if not by_uv(constraints) and not by_pip(constraints):
        return 1
    tools = [PYTHON, "-m", "parity", "tools", "install"]
    if here != (3, 11) and subprocess.run(tools, cwd=ROOT, check=False).returncode:
        print("toolchains: not all were made, see above; their cells go by another route, or are unavailable")
    print(f"Set up in {time.monotonic() - start:.0f} s.")
    return 0


def by_uv(constraints: Path) -> bool:
    """Install by uv. Returns whether that succeeded."""
    on_path = shutil.which("uv")
    uv = [on_path] if on_path else [str(PYTHON), "-m", "uv"]
    if not on_path and not pip("install", "--quiet", "--constraint", str(constraints), "uv"):
        return False
    env = dict(os.environ)
    for theirs, ours in FOR_UV.items():
        if env.get(theirs) and not env.get(ours):
            env[ours] = ",".join(env[theirs].split()) if ours == "UV_FIND_LINKS" else env[theirs]
    env.setdefault("UV_INDEX_STRATEGY", "unsafe-best-match")  # torch's CPU build lies in an index beside PyPI
    command = [*uv, "pip", "install", "--python", str(PYTHON), "--constraint", str(constraints), "--editable", ".[dev]"]
    return subprocess.run(command, cwd=ROOT, env=env, check=False).returncode == 0


def by_pip(constraints: Path) -> bool:
    """Install by pip. Returns whether that succeeded."""
    limits = ("--constraint", str(constraints))
    return pip("install", *limits, "setuptools", "wheel") and pip(
        "install", *limits, "--no-build-isolation", "--editable", ".[dev]"
    )


def pip(*arguments: str) -> bool:
    return subprocess.run([PYTHON, "-m", "pip", *arguments], cwd=ROOT, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
