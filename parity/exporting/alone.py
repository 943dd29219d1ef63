"""One exported file against one module or reference file, with no project and no pytest: `parity.verify`.

A project is made for the occasion in a scratch folder: the module pickled into it, the cases as golden data, the file
as the only artefact. The checks are those of `parity export`: golden cases, contract and chain of proof.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from parity import formats
from parity.core.case import Array
from parity.core.errors import ConfigError
from parity.core.plan import PRECISIONS, Cell, choose
from parity.core.record import CellRecord
from parity.exporting import verify as checks
from parity.session import project

if TYPE_CHECKING:
    from torch import nn

    Model = nn.Module | str | os.PathLike[str]

NAME = "model"  # of the only model of the scratch project

FACTORY = """import sys

sys.path.extend({paths!r})


def make():
    import cloudpickle

    with open({file!r}, "rb") as file:
        return cloudpickle.load(file)
"""


def verify(
    model: Model,
    file: str | os.PathLike[str],
    cases: Sequence[Mapping[str, Array]],
    *,
    precision: str = "fp32",
    limits: Mapping[str, float] | None = None,
    calibration: Sequence[Mapping[str, Array]] = (),
    outputs: Sequence[str] = (),
    tensors: Mapping[str, str] | None = None,
    fixed: bool = False,
    target: str | None = None,
    cache: str | os.PathLike[str] | None = None,
) -> CellRecord:
    """Measure an exported file against the model that it should be, on these cases and by the chain of proof.

    model: the PyTorch module (it is pickled by cloudpickle, so that a class of a notebook will do), or the path of a
        .pt2, TorchScript or ONNX file that stands for it.
    file: the exported file or folder; `target` is its format where its suffix does not tell.
    cases: inputs by name, in the order in which the module takes them; arrays of the dtypes that it takes. A size that
        differs between cases makes a dynamic axis.
    precision: what the file was made at: fp32, fp16, dynamic or int8.
    limits: upper or lower bounds by metric, as in `[tool.parity.limits.default]`; what is not named keeps its default.
    calibration: for int8, the inputs that the file was calibrated on; without them the cases count as such.
    outputs: names of the module's outputs in its order; without them those that the file states.
    tensors: how the file calls an input or output, and in which layout it has it, as `parity verify --tensor`:
        {"image": "serving_default_image:0:NHWC"}, {"image": ":NHWC"}.
    fixed: every dynamic axis has one size in the file, and is meant to.
    cache: folder of the store, as for `--parity-cache`.

    Returns the settled record of the cell: `state` is "pass" or why not, `reason` says it in a sentence, `checks` hold
    every figure; a notebook shows it as a table. Nothing is raised for a file that is wrong. Raises ConfigError for
    arguments that cannot be meant, ParityError where the model itself or the file cannot be run.
    """
    path = Path(file)
    if not path.exists():
        raise ConfigError(f"{path}: no such file")
    if not cases:
        raise ConfigError("cases: none given; a file is measured on inputs")
    with tempfile.TemporaryDirectory(prefix="parity-") as scratch:
        root = Path(scratch).resolve()
        named = target or _target(path)
        cell = Cell(NAME, choose("target", named, formats.names()), choose("precision", precision, PRECISIONS))
        artifact = {"path": str(path.resolve()), **_sides(tensors or {}, cases[0]), "fixed": fixed}
        text = _project(root, model, artifact, cell, cases, limits or {}, calibration, outputs)
        config = project.parse(text, root / "pyproject.toml")
        with project.opened(config, os.fspath(cache) if cache is not None else None) as session:
            return checks.verify(session, cell)


def _target(path: Path) -> str:
    known = formats.recognised(path)
    if known is None:
        raise ConfigError(f"target: {path.name!r} does not tell its format; one of: {', '.join(formats.names())}")
    return known.name


def tensor(name: str, text: str) -> dict[str, str]:
    """What a table of artifacts says of one tensor, from `THEIRS`, `:LAYOUT` or `THEIRS:LAYOUT`."""
    theirs, sign, layout = text.rpartition(":")
    if not (sign and layout.isalpha() and layout.isupper()):
        return {"name": text}
    return {"name": theirs or name, "layout": layout}


def _sides(tensors: Mapping[str, str], inputs: Mapping[str, Array]) -> dict[str, dict[str, dict[str, str]]]:
    """The tensors as the tables `inputs` and `outputs` of an artefact."""
    sides: dict[str, dict[str, dict[str, str]]] = {"inputs": {}, "outputs": {}}
    for name, text in tensors.items():
        sides["inputs" if name in inputs else "outputs"][name] = tensor(name, text)
    return sides


def _project(
    root: Path,
    model: Model,
    artifact: Mapping[str, Any],
    cell: Cell,
    cases: Sequence[Mapping[str, Array]],
    limits: Mapping[str, float],
    calibration: Sequence[Mapping[str, Array]],
    outputs: Sequence[str],
) -> str:
    """The text of the scratch project's pyproject.toml; what it names is written beside it."""
    inputs, dims = _contract(cases)
    _write(root / "golden", cases)
    lines = [f"[tool.parity.models.{NAME}]", _origin(root, model), 'golden = "golden"']
    if calibration:
        _write(root / "calibration", calibration)
        lines.append('calibration = "calibration"')
    lines.append(f"inputs = [{', '.join(map(inline, inputs))}]")
    if outputs:
        lines.append(f"outputs = [{', '.join(inline({'name': name}) for name in outputs)}]")
    if dims:
        lines.append(f"dims = {inline(dims)}")
    key = f"{cell.target}-{cell.precision}"
    lines += [f"cells = [{json.dumps(key)}]", f"artifacts = {inline({key: artifact})}"]
    if limits:
        lines += ["[tool.parity.limits.default]", *(f"{metric} = {float(limit)!r}" for metric, limit in limits.items())]
    return "\n".join(lines) + "\n"


def _origin(root: Path, model: Model) -> str:
    """The setting that says where the model comes from."""
    if isinstance(model, (str, os.PathLike)):
        path = Path(model)
        if not path.is_file():
            raise ConfigError(f"model: {path}: no such file")
        return f"reference = {json.dumps(str(path.resolve()))}"
    import cloudpickle

    pickled = root / "module.pickle"
    try:
        pickled.write_bytes(cloudpickle.dumps(model))
    except Exception as error:  # whatever a class's own __reduce__ raises
        raise ConfigError(
            f"model: {type(model).__name__} cannot be pickled ({error}); give a .pt2 file of it"
        ) from None
    paths = [os.path.abspath(entry) for entry in sys.path]
    (root / "scratch_model.py").write_text(FACTORY.format(paths=paths, file=str(pickled)), encoding="utf-8")
    return 'factory = "scratch_model:make"'


def _contract(cases: Sequence[Mapping[str, Array]]) -> tuple[list[dict[str, Any]], dict[str, list[int]]]:
    """Inputs as a model's table declares them, and the sizes of axes that differ between cases."""
    first = cases[0]
    inputs, dims = [], {}
    for name, array in first.items():
        others = [np.asarray(case[name]) for case in cases if name in case]
        if len(others) < len(cases):
            raise ConfigError(f"cases: {name!r} is not in all of them")
        if any(other.ndim != np.ndim(array) for other in others):
            raise ConfigError(f"cases: {name!r} has another number of axes in some of them")
        shape: list[int | str] = []
        for axis, size in enumerate(np.shape(array)):
            sizes = list(dict.fromkeys(other.shape[axis] for other in others))
            dynamic = "batch" if axis == 0 else f"{name}_{axis}"
            shape.append(size if len(sizes) == 1 else dynamic)
            if len(sizes) > 1:
                dims[dynamic] = sizes
        inputs.append({"name": name, "shape": shape, "dtype": np.asarray(array).dtype.name})
    return inputs, dims


def _write(folder: Path, cases: Sequence[Mapping[str, Array]]) -> None:
    folder.mkdir()
    for number, case in enumerate(cases):
        np.savez(folder / f"{number:04}.npz", **{name: np.asarray(array) for name, array in case.items()})


def inline(value: Any) -> str:
    """A value as TOML writes it in one line."""
    if not isinstance(value, Mapping):
        return json.dumps(value)
    return "{ " + ", ".join(f"{json.dumps(key)} = {inline(item)}" for key, item in value.items()) + " }"
