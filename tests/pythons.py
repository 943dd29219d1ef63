"""What holds on every supported Python that this machine has.

    python -m tests.pythons [core] [users] [lowest] [3.10 3.12 ...]

Plan, compare, limits, gate, record, report and capsules promise to run without torch and without any converter, on
Python 3.10 to 3.13. Each interpreter gets an environment with the package's own dependencies only, and runs the tests
of that core.

An install of all runtimes leaves a user's environment as it was: one usual environment for each Python, from the oldest
torch and NumPy to the newest. torch alone is gigabytes from PyPI; name PyTorch's own index to pip for its CPU build.

The core's tests also hold with the lowest versions that pyproject.toml admits, found by uv: `lowest`, when asked for.

An interpreter that is not here is named, and is no failure; none at all is one.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
SUPPORTED = ("3.10", "3.11", "3.12", "3.13")
TORCH = re.compile(r"^(import|from) (torch|fixtures)|importorskip..torch", re.MULTILINE)
# Without an import of torch, these still ask for what only an environment with runtimes has.
RUNTIMES = ("bisect", "code_key", "doctor", "formats", "processor", "public_names", "toolchains")
PAGES = ("page", "summary", "words")

# By Python: what a user has, and imports. NumPy 1.26 and protobuf 5 are what newer releases of onnx would move.
USUAL = ("timm", "pandas", "lightning")
USERS = {
    "3.10": (
        ("torch==2.6.0", "torchvision==0.21.0", "numpy==1.26.4", "protobuf==5.29.5", "tensorboard",
         "opencv-python-headless==4.11.0.86", *USUAL),
        ("torch", "torchvision", "cv2", "google.protobuf", "tensorboard", *USUAL),
    ),
    "3.11": (
        ("torch==2.8.0", "torchvision==0.23.0", "numpy==2.4.6", "opencv-python==5.0.0.93", *USUAL),
        ("torch", "torchvision", "cv2", *USUAL),
    ),
    "3.12": (
        ("torch==2.10.0", "torchvision==0.25.0", "numpy==2.4.6", "opencv-python==5.0.0.93", *USUAL),
        ("torch", "torchvision", "cv2", *USUAL),
    ),
    "3.13": (
        ("torch==2.15.0", "numpy==2.5.5", "opencv-python==5.0.0.93", "pandas", "lightning"),
        ("torch", "cv2", "pandas", "lightning"),
    ),
}  # fmt: skip
READERS = ("tests/unit/test_torch_archives.py", "tests/unit/test_reference_files.py", "tests/proof/test_torch.py")
TARGETS = ["onnx", "coreml", "torchscript", "exported"]
NET = """
import torch


def net():
    torch.manual_seed(0)
    body = torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1)
    return torch.nn.Sequential(*body, torch.nn.Flatten(), torch.nn.Linear(8, 5)).eval()
"""


def tests() -> list[str]:
    """The unit tests that need neither torch nor a runtime, and those of the report that need no browser."""
    others = {f"test_{name}.py" for name in RUNTIMES}
    core = [p for p in sorted(ROOT.glob("tests/unit/test_*.py")) if p.name not in others]
    unit = [p for p in core if not TORCH.search(p.read_text(encoding="utf-8"))]
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


def environment(python: Path, folder: str) -> Path:
    """The interpreter of a new environment in `folder`."""
    subprocess.run([python, "-m", "venv", folder], check=True)
    return Path(folder, "bin", "python")


def tested(python: Path, files: Sequence[str]) -> int:
    """pytest's exit code for test files of this project."""
    command = [
        python,
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
        *files,
    ]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


def passes(version: str, python: Path) -> bool:
    """Whether the core's tests pass under `python`, in an environment made for the purpose."""
    with tempfile.TemporaryDirectory() as scratch:
        own = environment(python, scratch)
        subprocess.run([own, "-m", "pip", "install", "--quiet", str(ROOT)], check=True)
        code = tested(own, tests())
    print(f"Python {version}: {'pass' if code == 0 else f'pytest exit {code}'}", flush=True)
    return code == 0


def passes_with_lowest(version: str, python: Path) -> bool:
    """Whether the core's tests pass with the lowest version of each of the package's own dependencies."""
    uv = [path] if (path := shutil.which("uv")) else [sys.executable, "-m", "uv"]
    with tempfile.TemporaryDirectory() as scratch:
        own = environment(python, scratch)
        install = ["pip", "install", "--quiet", "--resolution", "lowest-direct", "--python", str(own), str(ROOT)]
        subprocess.run([*uv, *install], check=True)
        print(listed(own), flush=True)
        code = tested(own, tests())
    print(f"Python {version}, lowest versions: {'pass' if code == 0 else f'pytest exit {code}'}", flush=True)
    return code == 0


def listed(python: Path) -> str:
    """Every installed distribution with its version, as pip takes them for constraints."""
    asked = [python, "-m", "pip", "list", "--format=freeze"]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout


def left_as_it_was(version: str, python: Path) -> bool:
    """Whether a user's environment has all that it had, imports it, reads .pt2 files, and reaches a verdict, after all
    runtimes were installed into it as README says. An environment that pip cannot make here is no failure."""
    packages, imports = USERS[version]
    label = f"Python {version} beside {', '.join(packages)}"
    with tempfile.TemporaryDirectory() as scratch:
        own = environment(python, scratch)
        pip = [own, "-m", "pip", "install", "--quiet"]
        if subprocess.run([*pip, *packages], check=False).returncode:
            print(f"{label}: pip cannot make this environment here", flush=True)
            return True
        before = listed(own)
        kept = Path(scratch, "keep.txt")
        kept.write_text(before, encoding="utf-8")
        subprocess.run([*pip, "--constraint", str(kept), f"{ROOT}[all]"], check=True)
        moved = sorted(set(before.splitlines()) - set(listed(own).splitlines()))
        faults = [f"moved: {', '.join(moved)}"] if moved else []
        if subprocess.run([own, "-c", f"import {', '.join(imports)}"], cwd=scratch, check=False).returncode:
            faults.append("its packages do not import")
        if tested(own, READERS):
            faults.append("tests fail")
        if not reaches_a_verdict(own, Path(scratch, "project")):
            faults.append("a first project does not pass")
    print(f"{label}: {'; '.join(faults) or 'pass, and nothing was moved'}", flush=True)
    return not faults


def reaches_a_verdict(python: Path, folder: Path) -> bool:
    """Whether a first project, set up by `parity init`, passes on every target that needs no converter of its own."""
    folder.mkdir()
    (folder / "net.py").write_text(NET, encoding="utf-8")
    init = ["init", "net:net", "--input", "image=batch,3,16,16", "--output", "logits", "--no-run"]
    subprocess.run([python, "-m", "parity", *init], cwd=folder, check=True)
    table = folder / "pyproject.toml"
    targets = f"targets = {json.dumps(TARGETS)}"
    table.write_text(re.sub(r"^targets = .*$", targets, table.read_text(encoding="utf-8"), flags=re.MULTILINE), "utf-8")
    command = [python, "-m", "pytest", "-q", "-m", "parity", "--parity-cache", str(folder / "cache")]
    return subprocess.run(command, cwd=folder, check=False).returncode == 0


def main(chosen: list[str]) -> int:
    checks = {"core": passes, "users": left_as_it_was, "lowest": passes_with_lowest}
    only = [name for name in chosen if name in checks]
    versions = [name for name in chosen if name not in checks] or SUPPORTED
    results = []
    for version in versions:
        python = interpreter(version)
        if python is None:
            print(f"Python {version}: not on this machine")
            continue
        results += [checks[name](version, python) for name in only or ("core", "users")]
    return 0 if results and all(results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
