"""A project with every fault as a model, run with `pytest -m parity`; and what one random input says of the same files.

For each fault two models stand in it: `NAME` verifies the faulty artefact, and `NAME_right` one that the same code made
of the right module, which must pass. Whoever adds a fault writes no test: the catalogue is the test's parameters.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from parity.core.record import CellRecord, read
from tests.faults.corpus.catalogue import Fault

CALIBRATED = 48  # inputs that int8 ranges are taken from
ROOT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Verdict:
    """What the default profile said of a fault, and of the right artefact of the same model (None: not made)."""

    fault: Fault
    cell: CellRecord
    right: CellRecord | None

    @property
    def found(self) -> bool:
        return self.cell.state not in ("pass", "waived", "missing", "unavailable")

    @property
    def kinds(self) -> list[str]:
        """The kinds of check that broke, in the order of the record."""
        return list(dict.fromkeys(c.kind for c in self.cell.checks if not c.passed))


def draw(fault: Fault, seed: int, share: float = 1.0) -> dict[str, np.ndarray[Any, Any]]:
    """Ordinary inputs at the example's sizes: normal, within `share` of the range; integers uniform."""
    rng = np.random.default_rng(seed)
    found: dict[str, np.ndarray[Any, Any]] = {}
    for spec in fault.inputs:
        shape, (low, high) = fault.example(spec.name), spec.range
        if spec.dtype.startswith("int"):
            found[spec.name] = rng.integers(int(low), int(high) + 1, shape).astype(spec.dtype)  # type: ignore[arg-type]
            if spec.range == (0, 1):
                found[spec.name][..., 0] = 1  # a mask of nothing asks for nothing
        else:
            middle, half = (low + high) / 2, (high - low) / 2 * share
            value = middle + half / 2 * rng.standard_normal(shape).clip(-2, 2)  # type: ignore[arg-type]
            found[spec.name] = value.astype(spec.dtype)
    return found


def write_onnx(path: Path, fault: Fault, model: torch.nn.Module, static: bool) -> None:
    example = tuple(torch.from_numpy(v) for v in draw(fault, 99).values())
    axes: dict[str, dict[int, str]] = {}
    if not static:
        axes = {i.name: {k: d for k, d in enumerate(i.shape) if isinstance(d, str)} for i in fault.inputs}
        lead = {0: "batch"} if fault.inputs[0].shape[0] == "batch" else {}
        axes |= dict.fromkeys(fault.outputs, lead)
    with torch.no_grad():
        torch.onnx.export(
            model, example, str(path), dynamo=False, opset_version=17, dynamic_axes=axes,
            input_names=[i.name for i in fault.inputs], output_names=list(fault.outputs),
        )  # fmt: skip


def write_int8(path: Path, fault: Fault, model: torch.nn.Module, calibration: float) -> None:
    """Static int8 by onnxruntime, with ranges from ordinary inputs times `calibration`."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        rows = iter(
            [{k: v * np.float32(calibration) for k, v in draw(fault, 300 + s).items()} for s in range(CALIBRATED)]
        )

        def get_next(self) -> Any:
            return next(self.rows, None)

    write_onnx(path.with_name("float.onnx"), fault, model, False)
    quantize_static(path.with_name("float.onnx"), path, Reader(), quant_format=QuantFormat.QDQ, per_channel=True)
    path.with_name("float.onnx").unlink()


def write(folder: Path, fault: Fault, right: bool) -> Path:
    """The artefact of a fault, or of its right module, in a folder of its own."""
    folder.mkdir(parents=True)
    assert fault.faulty is not None
    model = fault.right() if right else fault.faulty()
    if fault.make == "script":
        torch.jit.script(model if not right else _plain(model)).save(str(folder / "model.pt"))
        return folder / "model.pt"
    if fault.make == "trace":
        example = tuple(torch.from_numpy(v) for v in draw(fault, 99).values())
        torch.jit.trace(model, example, check_trace=False).save(str(folder / "model.pt"))
        return folder / "model.pt"
    path = folder / "model.onnx"
    if fault.make == "int8":
        write_int8(path, fault, model, 1.0 if right or fault.name == "shared_scale" else 0.05)
    else:
        write_onnx(path, fault, model, fault.static and not right)
    return path


def _plain(model: Any) -> torch.nn.Module:
    """A module that can be scripted, of the recurrent one that is a lambda."""

    class Recurrent(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = model.gru

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.gru(x)[0]

    return Recurrent().eval()


def build(folder: Path, faults: Sequence[Fault]) -> None:
    """The whole project in `folder`."""
    (folder / "conftest.py").write_text(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n", encoding="utf-8")
    (folder / "test_parity.py").write_text("from parity.suite import *\n", encoding="utf-8")
    (folder / "corpus_nets.py").write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom tests.faults.corpus.models import *\n", encoding="utf-8"
    )
    text = ["[tool.parity]", "seed = 1", "timeout = 60"]
    for fault in faults:
        for index in range(4):
            where = folder / "golden" / fault.name
            where.mkdir(parents=True, exist_ok=True)
            np.savez(where / f"case{index}.npz", **draw(fault, 200 + index, fault.ordinary))  # type: ignore[arg-type]
        if fault.make == "int8":
            (folder / "calibration" / fault.name).mkdir(parents=True)
            for index in range(CALIBRATED):
                np.savez(folder / "calibration" / fault.name / f"{index}.npz", **draw(fault, 300 + index))  # type: ignore[arg-type]
        for right in (False, True):
            if right and (not fault.control or fault.faulty is None):
                continue
            name = fault.name + ("_right" if right else "")
            text += _table(fault, name)
            if fault.faulty is not None:
                path = write(folder / "files" / name, fault, right)
                text.append(f'artifacts = {{ "{fault.cell}" = "{path.relative_to(folder).as_posix()}" }}')
    (folder / "pyproject.toml").write_text("\n".join(text) + "\n", encoding="utf-8")


def _table(fault: Fault, name: str) -> list[str]:
    inputs = ", ".join(
        f'{{ name = "{i.name}", shape = {list(i.shape)}, dtype = "{i.dtype}", range = {list(i.range)} }}'
        for i in fault.inputs
    )
    outputs = ", ".join(f'{{ name = "{o}", kind = "{fault.kind}" }}' for o in fault.outputs)
    dims = ", ".join(f"{k} = {v}" for k, v in (fault.dims or {}).items())
    lines = [
        f"[tool.parity.models.{name}]", f'factory = "corpus_nets:{fault.right.__name__}"',
        f"inputs = [{inputs}]".replace("'", '"'), f"outputs = [{outputs}]", f'cells = ["{fault.cell}"]',
        f'golden = "golden/{fault.name}"',
    ]  # fmt: skip
    if fault.make == "int8":
        lines.append(f'calibration = "calibration/{fault.name}"')
    return lines + ([f"dims = {{ {dims} }}"] if dims else [])


def run(folder: Path, faults: Sequence[Fault], *arguments: str) -> tuple[list[Verdict], str]:
    """`pytest -m parity` in the project, with its default profile, and what it said of each fault."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "parity", "-n", "0", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=1800, check=False)
    report = folder / "reports" / "parity.json"
    if not report.exists():
        raise AssertionError(done.stdout + done.stderr)
    record = read(report)
    cells = {c.id: c for c in record.cells}
    found = [Verdict(f, cells[f"{f.name}-{f.cell}"], cells.get(f"{f.name}_right-{f.cell}")) for f in faults]
    return found, done.stdout


# What people do instead: one random input, and allclose.

TOLERANCE = {"fp32": (1e-3, 1e-5), "fp16": (1e-2, 1e-3), "int8": (0.1, 0.1)}  # rtol, atol; fp32 as PyTorch's tutorial


def one_random_input(folder: Path, fault: Fault, seed: int) -> bool:
    """Whether one random input (`torch.randn`, or ids from their range) and `numpy.allclose` find the fault.

    Outputs are taken by position. An artefact that cannot be run on it is found.
    """
    rng = np.random.default_rng(seed)
    feed = {}
    for i in fault.inputs:
        shape = fault.example(i.name)
        integer = i.dtype.startswith("int")
        value = rng.integers(int(i.range[0]), int(i.range[1]) + 1, shape) if integer else rng.standard_normal(shape)  # type: ignore[arg-type]
        feed[i.name] = value.astype(i.dtype)
    with torch.no_grad():
        want = fault.right()(*(torch.from_numpy(v) for v in feed.values()))
    wants = [w.numpy() for w in (want if isinstance(want, tuple) else (want,))]
    rtol, atol = TOLERANCE[fault.cell.rpartition("-")[2]]
    try:
        gots = _outputs(folder, fault, feed)
    except Exception:
        return True
    return not all(
        g.shape == w.shape and np.allclose(g, w, rtol, atol * (np.abs(w).max() if fault.make == "int8" else 1))
        for g, w in zip(gots, wants, strict=True)
    )


def _outputs(folder: Path, fault: Fault, feed: dict[str, np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
    path = folder / "files" / fault.name
    if fault.make in ("script", "trace"):
        with torch.no_grad():
            return [torch.jit.load(str(path / "model.pt"))(*map(torch.from_numpy, feed.values())).numpy()]
    if fault.faulty is None:
        return _core_ml(fault, feed)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path / "model.onnx"), options, providers=["CPUExecutionProvider"])
    known = {i.name for i in session.get_inputs()}
    return [np.asarray(v) for v in session.run(None, {k: v for k, v in feed.items() if k in known})]


def _core_ml(fault: Fault, feed: dict[str, np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
    """Converted as coremltools' guide says, and run by this project's evaluator."""
    import coremltools as ct

    from parity import mil

    example = tuple(map(torch.from_numpy, feed.values()))
    exported = torch.export.export(fault.right(), example).run_decompositions({})
    package = ct.convert(exported, compute_precision=ct.precision.FLOAT32, skip_model_load=True)
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        package.save(str(Path(folder, "m.mlpackage")))
        program = mil.load(Path(folder, "m.mlpackage"))
        names = list(program.inputs)
        return list(program.run(dict(zip(names, feed.values(), strict=True))).values())
