"""From `pip install` to a verdict, for a model that this project has never seen: `python benchmarks/first_verdict.py`.

Builds a wheel of this tree, installs it into a fresh environment, and types what a user types: the model is theirs, in
a package of theirs, and what counts are the lines that they write for parity. Prints each step with its lines and its
seconds, and ends with 1 where they are more than twelve or where no verdict comes out.

To spare the download of 3.5 GB the environment sees the converters and runtimes of the one that runs this script
(`--whole` installs them as a user would); the suite itself is the wheel's, which is checked.
"""

from __future__ import annotations

import argparse
import os
import resource
import site
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
MOST = 12  # lines that a user may have to write
MODEL = '''\
"""Depth from one picture and the camera's six numbers: squeeze, excite and a skip, as somebody's own code has it."""

import torch
from torch import nn


class Excite(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, channels // 4, 1), nn.SiLU(),
                                  nn.Conv2d(channels // 4, channels, 1), nn.Sigmoid())

    def forward(self, x):
        return x * self.gate(x)


class Depth(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.Hardswish(),
                                  nn.Conv2d(width, width, 3, padding=1, groups=width), Excite(width))
        self.camera = nn.Sequential(nn.Linear(6, width), nn.LayerNorm(width), nn.GELU())
        self.up = nn.Sequential(nn.ConvTranspose2d(width, 8, 2, stride=2), nn.LeakyReLU(0.1),
                                nn.Conv2d(8, 1, 3, padding=1))

    def forward(self, picture, camera):
        features = self.down(picture) + self.camera(camera)[:, :, None, None]
        return {"depth": nn.functional.softplus(self.up(features))}


def depth(width=16):
    torch.manual_seed(7)
    return Depth(width)
'''
LINES = [
    "parity init robot.depth:depth --input picture=batch,3,48,64 --input camera=batch,6",
    "pytest -m parity",
]


@dataclass(frozen=True)
class Step:
    line: str
    seconds: float
    processor: float
    code: int
    output: str


def typed(line: str, folder: Path, environ: dict[str, str]) -> Step:
    """One line at a prompt."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(["bash", "-c", line], cwd=folder, env=environ, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Step(line, time.monotonic() - start, used, done.returncode, done.stdout + done.stderr)


def environment(folder: Path, whole: bool) -> dict[str, str]:
    """A fresh virtual environment in `folder`; with the packages of this one behind its own, unless `whole`."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    if not whole:
        python = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        own = folder / "lib" / python / "site-packages"
        (own / "zz_converters.pth").write_text("\n".join(site.getsitepackages()) + "\n", encoding="utf-8")
        command = folder / "bin" / "pytest"  # which installing pytest itself would have brought
        command.write_text(f"#!{folder / 'bin' / 'python'}\nimport pytest\nraise SystemExit(pytest.main())\n")
        command.chmod(0o755)
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "PYTHON"))}
    return environ | {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "VIRTUAL_ENV": str(folder)}


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--whole", action="store_true", help="download and install every dependency")
    options.add_argument("--keep", type=Path, metavar="FOLDER", help="work in this folder and keep it")
    given = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="first-verdict-") as scratch:
        work = given.keep.resolve() if given.keep else Path(scratch)
        project = work / "robot project"
        (project / "robot").mkdir(parents=True)
        (project / "robot" / "__init__.py").touch()
        (project / "robot" / "depth.py").write_text(MODEL, encoding="utf-8")
        build = [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "-q",
            "--no-deps",
            "--no-build-isolation",
            "-w",
            str(work),
            str(ROOT),
        ]
        subprocess.run(build, check=True)
        (wheel,) = work.glob("pytest_parity-*.whl")
        environ = environment(work / "venv", given.whole)
        install = (
            f"pip install -q {'' if given.whole else '--no-deps '}'{wheel}{'[onnx,tflite]' if given.whole else ''}'"
        )
        steps = [typed(install, project, environ)]
        asked = "import parity, sys; sys.exit(not parity.__file__.startswith(sys.prefix))"
        if typed(f'python -c "{asked}"', work, environ).code:
            print("the suite in the fresh environment is not the wheel's")
            return 1
        environ["XDG_CACHE_HOME"] = str(work / "cache")
        for line in LINES:
            steps.append(typed(line, project, environ))
            if steps[-1].code:
                break
        written = len(steps)
        for step in steps:
            shown = step.line.replace(str(wheel), "pytest-parity")
            print(f"{step.seconds:7.1f} s {step.processor:7.1f} s of processor  $ {shown}")
        last = steps[-1]
        verdict = next((text for text in last.output.splitlines() if text.startswith("verdict: ")), "no verdict")
        print(f"{written} lines written by the user, at most {MOST}; {verdict}")
        if last.code:
            print(last.output[-3000:])
        return 0 if written <= MOST and last.code == 0 and verdict.startswith("verdict: pass") else 1


if __name__ == "__main__":
    sys.exit(main())
