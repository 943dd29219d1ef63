"""What a file must keep of the model's contract, checked on the file itself and by running it."""

from __future__ import annotations

from typing import Any

import numpy as np

from parity import judge
from parity.cases import Array, Case, draw
from parity.config import ModelConfig
from parity.contract import InputSpec
from parity.limits import fallback
from parity.recorder import Recorder
from parity.runtimes import Runtime


def check_contract(runtime: Runtime, parity: Recorder) -> None:
    """Signature, operators, opset, repeatability, and every declared dynamic axis at other sizes."""
    model = runtime.session.config.models[runtime.cell.model]
    runtime.open()
    _signature(runtime, model, parity)
    _operators(runtime, model, parity)
    _repeats(runtime, model, parity)
    _sizes(runtime, model, parity)


def _signature(runtime: Runtime, model: ModelConfig, parity: Recorder) -> None:
    notes, described = runtime.artifact.notes, runtime.description
    fixed = notes.get("fixed", {})
    for side in ("inputs", "outputs"):
        have = {d["name"]: d for d in described[side]}
        entries = {s.name: notes[side].get(s.name, {"name": s.name}) for s in getattr(model.contract, side)}
        extra = sorted(set(have) - {e["name"] for e in entries.values()})
        text = f"declared {len(entries)}, the file has {len(have)}" + (
            f", undeclared: {', '.join(extra)}" if extra else ""
        )
        parity.add(judge.fact("signature", "", f"{side}_count", len(have) == len(entries), text))
        for spec in getattr(model.contract, side):
            entry = entries[spec.name]
            found = have.get(entry["name"])
            parity.add(
                judge.fact("signature", spec.name, "present", found is not None,
                           f"{side[:-1]} {entry['name']!r}; the file has {', '.join(sorted(have)) or 'none'}")
            )  # fmt: skip
            if found is None:
                continue
            if isinstance(spec, InputSpec) and found["shape"] is not None:
                parity.add(_shape(spec, found, entry, fixed.get(spec.name)))
                parity.add(*_enumerated(spec, found, notes.get("enumerated", {})))
            quantised = bool(found.get("scale"))
            want = spec.dtype if isinstance(spec, InputSpec) else None
            if quantised:
                text = f"{found['dtype']} with scale {found['scale']:.6g} and zero point {found['zero_point']}"
                ok = runtime.cell.precision == "int8" and np.isfinite(found["scale"]) and found["scale"] > 0
                parity.add(judge.fact("signature", spec.name, "dtype", ok, text))
            elif want is not None and found["dtype"] is not None:
                want = runtime.target.stored_dtype(want)
                parity.add(judge.fact("signature", spec.name, "dtype", found["dtype"] == want,
                                      f"declared {want}, the file has {found['dtype']}"))  # fmt: skip
    if any(d["shape"] is None for d in described["inputs"]):
        parity.find(f"{runtime.cell.target} files do not declare the shapes of their inputs: checked by running only")
    if described.get("executor") == "mil-eval":
        parity.find("executed from its file by this project's evaluator; Core ML itself runs on macOS and did not run")
    if notes.get("states"):
        text = f"states of float16 in the file, written before and read after each run: {', '.join(notes['states'])}"
        parity.find(text)
    if "kernels" in notes:
        text = f"run on {notes['kernels']} kernels, as configured: the app must switch the default ones off"
        parity.find(text, "warning")
    if fixed:
        held = notes.get("enumerated", {})
        axes = sorted({d for s in model.contract.inputs for d in s.shape if isinstance(d, str)} - set(held))
        sizes = model.contract.example()
        if axes:
            text = ", ".join(f"{a} = {sizes[a]}" for a in axes)
            parity.find(f"this route fixes the dynamic axes: {text}; other sizes are not in this file")
        for axis, lengths in held.items():
            parity.find(f"{axis} is enumerated: {', '.join(map(str, lengths))}; other sizes are not in this file")


def _shape(spec: InputSpec, found: dict[str, Any], entry: dict[str, Any], fixed: list[int] | None) -> Any:
    """Fixed sizes must be equal; a declared dynamic axis must be dynamic in the file unless its route fixes it."""
    declared: list[int | str] = list(fixed or spec.shape)
    if entry.get("layout"):
        canonical = {3: "NCL", 4: "NCHW", 5: "NCDHW"}[len(declared)]
        declared = [declared[canonical.index(a)] for a in entry["layout"]]
    have = [d if isinstance(d, int) else None for d in found["shape"]]
    ok = len(have) == len(declared) and all(
        (h is None) if isinstance(d, str) else h == d for d, h in zip(declared, have, strict=False)
    )
    shown = [h if h is not None else "dynamic" for h in have]
    return judge.fact("signature", spec.name, "shape", ok, f"declared {declared}, the file has {shown}")


def _enumerated(spec: InputSpec, found: dict[str, Any], held: dict[str, list[int]]) -> list[Any]:
    """A file that enumerates an axis lists exactly the declared sizes of it."""
    facts = []
    for axis in held.keys() & set(spec.shape):
        have = sorted({shape[spec.shape.index(axis)] for shape in found.get("shapes", [])})
        want = sorted(held[axis])
        text = f"declared {axis} in {want}, the file takes {have}"
        facts.append(judge.fact("signature", spec.name, "enumerated", have == want, text))
    return facts


def _operators(runtime: Runtime, model: ModelConfig, parity: Recorder) -> None:
    ops = runtime.description.get("ops", {})
    total = sum(ops.values())
    parity.add(judge.fact("operators", "", "operators", total > 0, f"{total} operators of {len(ops)} kinds"))
    flex = sorted(name for name in ops if name.startswith("Flex"))
    if runtime.cell.target == "tflite":
        limits = parity.limits()
        detail = f"{', '.join(flex)}: runs only in apps that link the Flex delegate" if flex else "none"
        parity.add(judge.counted("operators", "flex_ops", float(len(flex)), limits, detail))
        if flex:
            parity.find(f"Flex operators {', '.join(flex)}: the app must link the Flex delegate", "warning")
    asked = runtime.artifact.notes.get("opset")
    if asked is not None:
        found = runtime.description.get("opset")
        # Quantisers may raise the opset to reach operators that they need; lower than asked is never right.
        ok = found == model.opset or (runtime.cell.precision != "fp32" and found is not None and found >= model.opset)
        parity.add(judge.fact("operators", "", "opset", ok, f"asked for {model.opset}, the file has {found}"))


def _repeats(runtime: Runtime, model: ModelConfig, parity: Recorder) -> None:
    """Two runs on the same input give the same bits: live dropout or leaked state does not."""
    inputs = runtime.session.example(model)
    first, second = runtime.run([inputs, inputs])
    for spec in model.contract.outputs:
        if spec.name in first and spec.name in second:
            same = first[spec.name].tobytes() == second[spec.name].tobytes()
            parity.add(judge.fact("repeat", spec.name, "repeats", same, "two runs on one input, bit for bit"))


def _sizes(runtime: Runtime, model: ModelConfig, parity: Recorder) -> None:
    """Run every declared dynamic axis at its other sizes, against the oracle, under the golden limits; of a file that
    fixes its axes, those that it enumerates."""
    session, contract, notes = runtime.session, model.contract, runtime.artifact.notes
    axes = notes.get("enumerated", {}) if notes.get("fixed") else contract.sizes()
    example = contract.example()
    cases: list[Case] = []
    for name, sizes in axes.items():
        for size in sizes[1:]:
            dims = {**example, name: size}
            cases.append(Case(f"{name}={size}", _inputs(runtime, model, dims)))
    if sum(len(sizes) > 1 for sizes in axes.values()) > 1:  # all at once, each at another size than the example's
        dims = {**example, **{name: sizes[-1] for name, sizes in axes.items()}}
        cases.append(Case(",".join(f"{n}={dims[n]}" for n in axes), _inputs(runtime, model, dims)))
    if not cases:
        return
    reference = session.reference(model, cases, "sizes" if axes == contract.sizes() else f"sizes of {' '.join(axes)}")
    for case, want in zip(cases, reference.outputs, strict=True):
        got = runtime.run([case.inputs])[0]
        for spec in contract.outputs:
            have = got.get(spec.name)
            shape = None if have is None else list(have.shape)
            expected = list(want[spec.name].shape)
            parity.add(judge.fact(case.id, spec.name, "shape", shape == expected, f"expected {expected}, got {shape}"))
            limits = dict(parity.limits(spec.name))
            limits.setdefault("rel_rms", fallback(runtime.cell))
            parity.add(*judge.check_output("contract", case.id, spec, have, want[spec.name], limits))


def _inputs(runtime: Runtime, model: ModelConfig, dims: dict[str, int]) -> dict[str, Array]:
    """Inputs with the sizes `dims`: golden rows stacked, pictures among them resized; drawn values where that does not
    give the sizes. A file whose ranges were calibrated on pictures owes nothing to noise."""
    contract, drawn = model.contract, draw.inputs(model.contract, dims, runtime.session.config.seed)
    if model.golden is None:
        return drawn
    golden = runtime.session.golden(model)
    found = {}
    for spec in contract.inputs:
        rows = drawn[spec.name].shape[0]
        parts = [golden[i % len(golden)].inputs[spec.name] for i in range(rows if contract.batched(spec) else 1)]
        if len({part.shape[1:] for part in parts}) > 1 or (parts[0].shape[0] != 1 and contract.batched(spec)):
            return drawn
        value = np.concatenate(parts)
        if value.ndim == 4 and value.dtype.kind == "f":
            value = _resampled(_resampled(value, 2, drawn[spec.name].shape[2]), 3, drawn[spec.name].shape[3])
        if value.shape != drawn[spec.name].shape:
            return drawn
        found[spec.name] = value
    return found


def _resampled(value: Array, axis: int, size: int) -> Array:
    """Linear interpolation along one axis, ends on ends."""
    have = value.shape[axis]
    if have == size:
        return value
    at = np.linspace(0, have - 1, size)
    low = np.minimum(at.astype(int), have - 2) if have > 1 else np.zeros(size, int)
    high = np.minimum(low + 1, have - 1)
    part = (at - low).astype(value.dtype).reshape([-1 if i == axis else 1 for i in range(value.ndim)])
    result: Array = value.take(low, axis) * (1 - part) + value.take(high, axis) * part
    return result
