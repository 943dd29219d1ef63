"""Resolve the locks of the toolchains again: `make locks`, with uv on PATH or in this Python.

Each NAME.toml in parity/process/toolchains is what NAME.txt is resolved from. torch's CPU build for Linux lies in
PyTorch's own index, or in a folder: UV_INDEX=https://download.pytorch.org/whl/cpu with
UV_INDEX_STRATEGY=unsafe-best-match, or UV_FIND_LINKS=FOLDER. A wheel in a folder has no hash in uv's lock; it is hashed
here.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parents[1] / "parity" / "process" / "toolchains"
UV = [shutil.which("uv")] if shutil.which("uv") else [sys.executable, "-m", "uv"]
EXPORT = ["--quiet", "--frozen", "--no-emit-project", "--no-annotate", "--no-header", "--format", "requirements-txt"]


def main(names: list[str]) -> None:
    for source in sorted(HERE.glob("*.toml")):
        if names and source.stem not in names:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            shutil.copy(source, Path(scratch, "pyproject.toml"))
            subprocess.run([*UV, "lock"], cwd=scratch, check=True)
            done = subprocess.run([*UV, "export", *EXPORT], cwd=scratch, check=True, stdout=subprocess.PIPE, text=True)
        source.with_suffix(".txt").write_text(hashed(done.stdout), encoding="utf-8")
        print(f"{source.stem}: {len(re.findall(r'^[^ ]+==', done.stdout, re.MULTILINE))} packages pinned")


def hashed(text: str) -> str:
    """The lock with a hash for each entry that has none, of the wheels of that version in the folders named to uv."""
    lines: list[str] = []
    entries = text.splitlines()
    for line, following in zip(entries, [*entries[1:], ""], strict=True):
        pinned = re.match(r"([\w.-]+)==([^ ;\\]+)", line)
        if pinned is None or following.lstrip().startswith("--hash"):
            lines.append(line)
            continue
        name, version = pinned[1].replace("-", "_"), pinned[2]
        folders = [Path(folder) for folder in os.environ.get("UV_FIND_LINKS", "").split(",") if folder]
        wheels = [wheel for folder in folders for wheel in folder.glob(f"{name}-{version}-*.whl")]
        if not wheels:
            sys.exit(f"{name}=={version} has no hash, and no wheel of it is in a folder of UV_FIND_LINKS")
        hashes = [f"    --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}" for wheel in sorted(wheels)]
        lines += [f"{line} \\", " \\\n".join(hashes)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main(sys.argv[1:])
