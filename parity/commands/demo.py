"""`parity demo`: a release that should not ship, in a minute: one seeded fault, its report and its diagnosis.

Writes a small project of its own and runs `pytest -m parity` in it. The model looks at pictures in RGB; the ONNX file
that the project "ships" was exported from a copy that reads them as BGR.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import NoneType
from typing import Any

from parity.core.errors import ParityError

FAULTY = "shipped.onnx"
FILES = {
    "pyproject.toml": f"""\
[tool.parity]

[tool.parity.models.shapes]
factory = "shapes:shapes"
checkpoint = "shapes.safetensors"
inputs = [{{ name = "image", shape = ["batch", 3, 48, 48], range = [0, 1] }}]
outputs = [{{ name = "logits", kind = "logits", labels = ["disc", "square", "ring", "cross"] }}]
preprocess = {{ scale = 255, color = "RGB" }}
golden = "golden"
cells = ["onnx-fp32", "onnx-fp16"]
artifacts = {{ "onnx-fp32" = "{FAULTY}" }} # exported elsewhere: verified as it is
""",
    "shapes.py": '''\
"""Tells discs, squares, rings and crosses apart."""

from torch import Tensor, nn


class Shapes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 24, 5, stride=2, padding=2), nn.ReLU(), nn.Conv2d(24, 48, 3, stride=2, padding=1), nn.ReLU(),
            nn.AdaptiveAvgPool2d(4), nn.Flatten(),
        )
        self.head = nn.Linear(48 * 16, 4)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.features(image))


def shapes() -> nn.Module:
    return Shapes()
''',
    "test_parity.py": "from parity.suite import *\n",
}


def add(commands: Any) -> None:
    command = commands.add_parser("demo", help="show a failing release and its diagnosis", description=__doc__,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    command.add_argument("folder", nargs="?", type=Path, default=Path("parity-demo"), metavar="FOLDER",
                         help="where to write the project (default: parity-demo); must not exist yet")  # fmt: skip
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """0 when the demonstration showed what it should: a failing verdict with the true cause named first."""
    from parity.core.record import read
    from parity.process.isolate import Budget, Children

    folder = options.folder.resolve()
    if folder.exists():
        raise ParityError(f"{options.folder} exists already: name another folder, or delete it first")
    folder.mkdir(parents=True)
    try:
        for name, text in FILES.items():
            (folder / name).write_text(text, encoding="utf-8")
        print("fitting a small model on drawn shapes, and exporting it with one seeded fault", flush=True)
        with Children(folder, Budget(300)) as children:
            children.call("torch", "parity.commands.demo:prepare", str(folder), NoneType, stage="export")
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    print(f"$ cd {options.folder} && pytest -m parity", flush=True)
    environ = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    subprocess.run([sys.executable, "-m", "pytest", "-q", "-m", "parity", "-p", "no:cacheprovider", "--tb=no", "-rN"],
                   cwd=folder, env=environ, check=False)  # fmt: skip
    report = folder / "reports" / "parity.json"
    if not report.is_file():
        raise ParityError(f"the run left no record; look at it with: cd {options.folder} && pytest -m parity")
    cell = read(report).cell("shapes-onnx-fp32")
    cause = cell.diagnosis[0] if cell.diagnosis else None
    print(f"\n{FAULTY} was exported from a copy of the model that reads BGR for RGB. The suite was not told; it says:")
    print(f"  {cell.state}: {cell.reason}")
    print(f"  diagnosis: {cause.sentence if cause else 'none'}")
    print(f"open {options.folder / 'reports' / 'parity.html'}")
    return 0 if cell.state == "fail" and cause is not None and "bgr" in cause.fault else 1


# In the child.


def prepare(folder: str) -> None:
    """Draw pictures, fit the model's last layer to them, save its weights, and export the faulty file."""
    import numpy as np
    import torch
    from safetensors.torch import save_file

    sys.path.insert(0, folder)
    root, generator = Path(folder), np.random.default_rng(20260101)
    torch.manual_seed(0)
    import shapes  # type: ignore[import-not-found]  # the project's module, written above

    module = shapes.shapes().eval()
    pictures, labels = zip(*(_draw(generator, i % 4) for i in range(800)), strict=True)
    with torch.no_grad():
        images = torch.from_numpy(np.stack(pictures).astype(np.float32) / 255).permute(0, 3, 1, 2)
        features = torch.cat([module.features(images), torch.ones(len(images), 1)], 1).double()
        wanted = torch.eye(4, dtype=torch.float64)[list(labels)] * 8 - 4
        ridge = features.T @ features + 1e-3 * torch.eye(features.shape[1], dtype=torch.float64)
        solved = torch.linalg.solve(ridge, features.T @ wanted).float()
        module.head.weight.copy_(solved[:-1].T)
        module.head.bias.copy_(solved[-1])
        save_file(module.state_dict(), str(root / "shapes.safetensors"))
        _golden(root, generator)
        _export_faulty(module, root)


def _draw(generator: Any, label: int) -> tuple[Any, int]:
    """A picture of the class `label`, uint8 [48, 48, 3] in RGB: a warm shape on a cool, noisy ground."""
    import numpy as np
    from PIL import Image, ImageDraw

    ground = generator.integers(0, [60, 90, 140])
    picture = Image.new("RGB", (48, 48), tuple(int(v) for v in ground))
    pen, colour = ImageDraw.Draw(picture), tuple(int(v) for v in generator.integers([150, 60, 0], [255, 180, 60]))
    x, y, r = (int(v) for v in generator.integers([16, 16, 8], [32, 32, 15]))
    box = (x - r, y - r, x + r, y + r)
    if label == 0:
        pen.ellipse(box, fill=colour)
    elif label == 1:
        pen.rectangle(box, fill=colour)
    elif label == 2:
        pen.ellipse(box, outline=colour, width=4)
    else:
        pen.line((x - r, y, x + r, y), fill=colour, width=4)
        pen.line((x, y - r, x, y + r), fill=colour, width=4)
    noisy = np.asarray(picture, dtype=np.int16) + generator.integers(-8, 9, (48, 48, 3))
    return noisy.clip(0, 255).astype(np.uint8), label


def _golden(root: Path, generator: Any) -> None:
    from PIL import Image

    for i in range(24):
        pixels, label = _draw(generator, i % 4)
        folder = root / "golden" / ("disc", "square", "ring", "cross")[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{i:02}.png")


def _export_faulty(module: Any, root: Path) -> None:
    """Write the file of a model whose first layer has its input channels reversed."""
    import copy

    import torch

    faulty = copy.deepcopy(module)
    faulty.features[0].weight.copy_(module.features[0].weight.flip(1))
    image = torch.zeros(1, 3, 48, 48)
    torch.onnx.export(
        faulty, (image,), str(root / FAULTY), dynamo=False, opset_version=17, input_names=["image"],
        output_names=["logits"], dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
    )  # fmt: skip
