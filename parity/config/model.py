"""The table of one model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from parity.config import inputs as inputs_of
from parity.config.contract import read_dims, read_input, read_name, read_output, read_preprocess
from parity.config.executors import ByScope, executors_of, read_executors
from parity.config.table import Reader, Table
from parity.core.contract import Contract
from parity.core.errors import ConfigError, ParityError
from parity.core.factories import fault
from parity.core.plan import PRECISIONS, Cell, check_model_name, did_you_mean
from parity.core.settings import (
    DEPLOYMENT_TARGETS,
    REFERENCE_FACTORY,
    REFERENCE_KINDS,
    ModelConfig,
    Prebuilt,
    TensorName,
)


def read_model(
    t: Table,
    name: str,
    targets: tuple[str, ...],
    precisions: tuple[str, ...],
    executors: ByScope,
) -> ModelConfig:
    """`executors` are those of the whole project."""
    try:
        check_model_name(name, t.reader.targets)
    except ConfigError as error:
        raise t.error(None, str(error)) from None
    factory, file = read_origin(t, name)
    stated = read_stated(t, file)
    inputs = tuple(read_input(t, i, v) for i, v in enumerate(t.take("inputs", list, stated["inputs"])))
    outputs = tuple(read_output(t, i, v) for i, v in enumerate(t.take("outputs", list, stated["outputs"])))
    for key, specs in (("inputs", inputs), ("outputs", outputs)):
        names = [s.name for s in specs]
        if not names:
            raise t.error(key if key in t.data else None, f"model {name!r} needs {key} = [{{ name = ... }}]")
        if len(set(names)) != len(names):
            raise t.error(key, "two have the same name")
    preprocess = t.take("preprocess", dict)
    dims = read_dims(t, inputs)
    opset = t.take("opset", int)
    if opset is not None and not 7 <= opset <= 25:
        raise t.error("opset", f"{opset} is not an ONNX opset that can be asked for (7 to 25)")
    contract = Contract(inputs, outputs, read_preprocess(t, preprocess) if preprocess is not None else None, dims)
    cells = read_cells(t, name, targets, precisions)
    artifacts = {}
    for key, value in t.take("artifacts", dict, {}).items():
        where = (*t.path, "artifacts")
        if f"{name}-{key}" not in {c.id for c in cells}:
            raise t.reader.error((*where, key), f"{key!r} is not among this model's cells")
        artifacts[key] = read_prebuilt(t.reader, value, (*where, key), contract, stated["layouts"].get(key, {}))
    states, stored = read_states(t, contract), t.take("references", str)
    clips, playing = inputs_of.playing(t)
    result = ModelConfig(
        name, factory, contract, cells, t.take("options", dict, {}),
        read_checkpoint(t), t.existing("golden"), t.existing("calibration"),
        clips.existing("path" if clips is not t else "video"), opset, t.take("proof", bool, True), artifacts,
        t.words("enumerated", tuple(dims)) or (), read_deployment_target(t),
        read_kernels(t, cells), read_nightly(t, cells), states, inputs_of.properties(t),
        inputs_of.decode(t, contract, states), playing, t.reader.root / stored if stored else None,
        stateful=read_stateful(t), reference=file, cases=inputs_of.cases(t),
        executors=executors_of(cells, executors, read_executors(t), t.reader.facts),
    )  # fmt: skip
    t.done()
    return result


def read_origin(t: Table, name: str) -> tuple[str, Path | None]:
    """What makes the module: a factory, or a file in its place."""
    factory, text = t.take("factory", str), t.take("reference", str)
    if (factory is None) == (text is None):
        needs = 'needs factory = "package.module:function", or reference = "file.pt2", .pt or .onnx'
        raise t.error(None, f"model {name!r} {'has a factory and a reference: leave one out' if factory else needs}")
    if factory is not None:
        if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", factory):
            raise t.error("factory", f"{factory!r} is not of the form 'package.module:function'")
        if t.reader.factories and (wrong := fault(factory, t.reader.root)):
            raise t.error("factory", wrong)
        return factory, None
    for key in ("checkpoint", "options"):
        if key in t.data:
            raise t.error(key, "a reference file has its weights and options in it: leave this out")
    file = t.existing("reference", "file") if t.reader.checkpoints else (t.reader.root / text).resolve()
    if file is None or file.suffix not in REFERENCE_KINDS:
        raise t.error("reference", f"{text!r:.80}: unknown kind of file; known: {', '.join(REFERENCE_KINDS)}")
    return REFERENCE_FACTORY, file


def read_stated(t: Table, file: Path | None) -> dict[str, Any]:
    """Inputs and outputs that the model's own file states, where the table does not: the reference's, else those of the
    first file to verify; and the layouts of the latter's inputs, by its cell."""
    stated: dict[str, Any] = {"inputs": [], "outputs": [], "layouts": {}}
    given = t.data.get("artifacts")
    if ("inputs" in t.data and "outputs" in t.data) or not (file or (isinstance(given, dict) and given)):
        return stated
    kind, where, key = "reference", file, ""
    if where is None:
        key, value = next(iter(t.data["artifacts"].items()))
        text = value.get("path") if isinstance(value, dict) else value
        kind, where = str(key).partition("-")[0], t.reader.root / str(text)
        if kind not in t.reader.targets or not where.exists():
            return stated  # what is wrong with it is said where it is read
    try:
        found = t.reader.read_contract(where, kind, t.reader.root)
    except ParityError as error:
        raise t.error("reference" if file else "artifacts", str(error)) from None
    stated["outputs"] = found["outputs"]
    stated["inputs"] = [{k: v for k, v in entry.items() if k != "layout"} for entry in found["inputs"]]
    if file is None and "inputs" not in t.data:
        stated["layouts"][key] = {i["name"]: i["layout"] for i in found["inputs"] if "layout" in i}
    return stated


def read_checkpoint(t: Table) -> Path | None:
    text = cast("str | None", t.take("checkpoint", str))
    if t.reader.checkpoints or not text:
        return t.existing("checkpoint", "file")
    return (t.reader.root / text).resolve()


def read_deployment_target(t: Table) -> str | None:
    value = cast("str | None", t.take("deployment_target", str))
    if value is not None and value not in DEPLOYMENT_TARGETS:
        hint = did_you_mean(value, DEPLOYMENT_TARGETS)
        raise t.error("deployment_target", f"unknown {value!r}{hint}; known: {', '.join(DEPLOYMENT_TARGETS)}")
    return value


def read_kernels(t: Table, cells: tuple[Cell, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in t.take("kernels", dict, {}).items():
        path = (*t.path, "kernels", key)
        known = [f"{c.target}-{c.precision}" for c in cells if t.reader.facts[c.target].kernels]
        if key not in known:
            raise t.reader.error(path, f"{key!r} is no cell of this model whose runtime has a choice of kernels"
                             + did_you_mean(key, known))  # fmt: skip
        sets = t.reader.facts[key.partition("-")[0]].kernels
        if value not in sets:
            raise t.reader.error(path, f"unknown kernel set {value!r:.40}; known: {', '.join(sets)}")
        found[key] = value
    return found


def read_nightly(t: Table, cells: tuple[Cell, ...]) -> frozenset[Cell]:
    known = {f"{c.target}-{c.precision}": c for c in cells}
    return frozenset(known[word] for word in t.words("nightly", tuple(known)) or ())


def read_stateful(t: Table) -> bool:
    wanted = bool(t.take("stateful", bool, False))
    if wanted and not t.data.get("states"):
        raise t.error("stateful", 'which inputs are states? add states = { INPUT = "OUTPUT that replaces it" }')
    return wanted


def read_states(t: Table, contract: Contract) -> dict[str, str]:
    inputs, outputs = [i.name for i in contract.inputs], [o.name for o in contract.outputs]
    found: dict[str, str] = {}
    for key, value in t.take("states", dict, {}).items():
        path = (*t.path, "states", key)
        if key not in inputs:
            raise t.reader.error(path, f"no input {key!r}{did_you_mean(key, inputs)}")
        if value not in outputs or value in found.values():
            raise t.reader.error(path, f"needs an output of its own that replaces it; there are {', '.join(outputs)}")
        found[key] = value
    return found


def read_cells(t: Table, name: str, targets: tuple[str, ...], precisions: tuple[str, ...]) -> tuple[Cell, ...]:
    own_targets = t.words("targets", t.reader.targets) or targets
    own_precisions = t.words("precisions", PRECISIONS) or precisions
    listed = t.words("cells")
    if listed is None:
        return tuple(Cell(name, target, p) for target in own_targets for p in own_precisions)
    if not listed:
        raise t.error("cells", "an empty list leaves nothing to check")
    cells = []
    for text in listed:
        try:
            cells.append(Cell.parse(f"{name}-{text}", t.reader.targets))
        except ConfigError as error:
            raise t.error("cells", f"{text!r} should be target-precision, as in 'onnx-fp32': {error}") from None
    return tuple(cells)


def read_prebuilt(reader: Reader, value: Any, path: tuple[str, ...], contract: Contract,
                  layouts: Mapping[str, str]) -> Prebuilt:  # fmt: skip
    """`layouts`: those of inputs whose contract was read from this very file."""
    e = Table({"path": value} if isinstance(value, str) else value, path, reader)
    file = e.existing("path")
    if file is None:
        raise e.error(None, "needs path = ...")
    names: dict[str, dict[str, TensorName]] = {}
    own = {name: TensorName(name, layout) for name, layout in layouts.items()}
    for side in ("inputs", "outputs"):
        names[side] = {}
        known = [spec.name for spec in getattr(contract, side)]
        for key, entry in e.take(side, dict, {}).items():
            if key not in known:
                raise reader.error((*path, side, key), f"no {side[:-1]} {key!r}{did_you_mean(key, known)}")
            n = Table(entry, (*path, side, key), reader)
            layout = n.take("layout", str)
            own_name = key if layout and "name" not in n.data else read_name(n)
            names[side][key] = TensorName(own_name, layout)
            n.done()
    fixed = e.take("fixed", bool, False)
    e.done()
    return Prebuilt(file, own | names["inputs"], names["outputs"], fixed)
