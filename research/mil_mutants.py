"""How many changes to a saved Core ML package the gate notices, with the limits that nobody set by hand.

``python research/mil_mutants.py`` converts networks of ``tests/mil/`` at fp32 and fp16, changes one attribute,
weight, constant, operator or operand of the saved file at a time, and judges each mutant as ``pytest -m parity`` judges
a file that a project brings: executed without rounding against the float64 oracle, then as declared, under the default
limits.
A mutant counts when it is refused or its unrounded outputs differ from the original's by more than 1e-9 of their size.
Prints the share that fails or is refused, by kind of change, and every survivor. Exit code 0 from 90 %.
"""

from __future__ import annotations

import argparse
import copy
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import parity.mil
from parity.core.case import Case
from parity.core.contract import OutputSpec
from parity.core.errors import ParityError
from parity.core.plan import Cell
from parity.judging import judge
from parity.judging.floor import natural, raw_floors
from parity.judging.gate import passes
from parity.judging.limits import fallback, resolve
from parity.mil.package import Package
from parity.mil.types import TensorType
from parity.reference.recipes import recipe
from parity.reference.twin import run as twin
from parity.session.lowering import STORAGE, worst_case
from tests.mil import zoo

Rows = list[dict[str, np.ndarray]]  # one a case: array by output

BAR, CASES = 0.90, 4
NETWORKS = ("plain_cnn", "mobilenet_v3", "vit", "unet", "detector", "decoder", "gated_mlp", "gru", "audio_cnn",
            "llama", "swin", "convnext", "shufflenet_v2", "deeplab", "conformer", "style_transfer")  # fmt: skip
REPLACED = {
    "relu": "relu6", "add": "sub", "mul": "add", "sub": "add", "real_div": "mul", "silu": "sigmoid", "sigmoid": "tanh",
    "max_pool": "l2_pool", "reduce_mean": "reduce_max", "reduce_max": "reduce_mean", "rsqrt": "inverse", "exp": "exp2",
    "tanh": "sigmoid", "sin": "cos", "cos": "sin", "sqrt": "square", "maximum": "minimum", "minimum": "maximum",
}  # fmt: skip
WORDS = {
    "pad_type": ("custom", "valid", "same"), "mode": ("EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION",
    "reflect", "replicate", "constant"), "direction": ("forward", "reverse"), "activation": ("tanh", "sigmoid", "relu"),
    "recurrent_activation": ("sigmoid", "tanh"),
}  # fmt: skip
WEIGHT_CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "scaled by 1.02": lambda w: w * 1.02,
    "one channel zero": lambda w: _channel(w, 0.0),
    "one channel negative": lambda w: _channel(w, -1.0),
    "two channels swapped": lambda w: np.concatenate([w[1:2], w[:1], w[2:]]) if len(w) > 1 else w,
    "reversed": lambda w: w.reshape(-1)[::-1].reshape(w.shape),
    "1 % noise": lambda w: w + 0.01 * np.std(w) * np.random.default_rng(0).standard_normal(w.shape),
    "rounded to 6 bits": lambda w: np.round(w / max(np.abs(w).max(), 1e-9) * 31) / 31 * np.abs(w).max(),
    "largest element halved": lambda w: np.where(np.abs(w) == np.abs(w).max(), w / 2, w),
}


def _channel(w: np.ndarray, factor: float) -> np.ndarray:
    changed = w.copy()
    changed[len(w) // 2] = changed[len(w) // 2] * factor
    return changed


@dataclass
class Mutant:
    """One change: its kind, what was done where, and the function that does it to a specification and weight bytes."""

    kind: str
    what: str
    apply: Callable[[Any, bytearray], None]


@dataclass
class Tally:
    """Mutants by kind: how many counted, how many were noticed and how; those that were not."""

    counted: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    same: Counter[str] = field(default_factory=Counter)
    survivors: list[str] = field(default_factory=list)


def operations(spec: Any) -> list[Any]:
    """The operations of the main function."""
    function = spec.mlProgram.functions["main"]
    return list(function.block_specializations[function.opset].operations)


def mutants(package: Package) -> Iterator[Mutant]:
    """Every change that can be made to the operations of a package, by their position."""
    listed = operations(package.spec)
    used = {a.name: (op.type, name) for op in listed for name, p in op.inputs.items() for a in p.arguments}
    for at, op in enumerate(listed):
        if op.type == "const":
            place = used.get(op.outputs[0].name)
            if place is not None:
                yield from _constants(package, op, at, *place)
            continue
        if op.type in REPLACED:
            other = REPLACED[op.type]
            yield Mutant("operator", f"{op.type} {op.outputs[0].name} becomes {other}", _set_type(at, other))
        names = [n for n in ("x", "y") if n in op.inputs]
        if len(names) == 2 and op.type in ("sub", "real_div", "matmul"):
            yield Mutant("operand", f"{op.type} {op.outputs[0].name}: x and y change places", _swap(at))
        if op.type == "concat" and len(op.inputs["values"].arguments) > 1:
            yield Mutant("operand", f"concat {op.outputs[0].name}: its values in another order", _rotate(at))


def _constants(package: Package, op: Any, at: int, operator: str, parameter: str) -> Iterator[Mutant]:
    value = op.attributes["val"]
    where = f"{operator}.{parameter} ({op.outputs[0].name})"
    if value.WhichOneof("value") == "blobFileValue":
        declared = TensorType.of(value.type.tensorType)
        if declared.dtype.name not in ("fp16", "fp32"):
            return
        blob = package.weight_file(value.blobFileValue.fileName).blobs[value.blobFileValue.offset]
        shape, dtype = declared.static_shape, declared.dtype.numpy
        for name, change in WEIGHT_CHANGES.items():
            if shape:
                yield Mutant("weight", f"{where}: {name}", _set_weight(blob, dtype, shape, change))
        return
    tensor = value.immediateValue.tensor
    held = tensor.WhichOneof("value")
    values = list(getattr(tensor, held).values) if held and held != "bytes" else []
    if held in ("ints", "longInts"):
        for step in (1, -1):
            for index in sorted({0, len(values) - 1}):
                yield Mutant(
                    "attribute", f"{where}[{index}] {step:+d}", _set_value(at, held, index, values[index] + step)
                )
        if len(values) > 1 and len(set(values)) > 1:
            yield Mutant("attribute", f"{where}: reversed", _set_all(at, held, values[::-1]))
    elif held == "bools":
        for index, flag in enumerate(values[:2]):
            yield Mutant("attribute", f"{where}[{index}]: {not flag}", _set_value(at, held, index, not flag))
    elif held == "floats":
        factor = 10.0 if parameter == "epsilon" else 1.1
        yield Mutant("constant", f"{where}: times {factor}", _set_value(at, held, 0, values[0] * factor))
    elif held == "strings":
        for word in WORDS.get(parameter, ()):
            if word != values[0]:
                yield Mutant("attribute", f"{where}: {values[0]} becomes {word}", _set_value(at, held, 0, word))


def _set_type(at: int, other: str) -> Callable[[Any, bytearray], None]:
    def apply(spec: Any, _: bytearray) -> None:
        operations(spec)[at].type = other

    return apply


def _swap(at: int) -> Callable[[Any, bytearray], None]:
    def apply(spec: Any, _: bytearray) -> None:
        x, y = (operations(spec)[at].inputs[n] for n in ("x", "y"))
        held = copy.deepcopy(x)
        x.CopyFrom(y)
        y.CopyFrom(held)

    return apply


def _rotate(at: int) -> Callable[[Any, bytearray], None]:
    def apply(spec: Any, _: bytearray) -> None:
        arguments = operations(spec)[at].inputs["values"].arguments
        held = [copy.deepcopy(a) for a in arguments]
        for argument, other in zip(arguments, [*held[1:], held[0]], strict=True):
            argument.CopyFrom(other)

    return apply


def _set_value(at: int, kind: str, index: int, value: Any) -> Callable[[Any, bytearray], None]:
    def apply(spec: Any, _: bytearray) -> None:
        getattr(operations(spec)[at].attributes["val"].immediateValue.tensor, kind).values[index] = value

    return apply


def _set_all(at: int, kind: str, values: list[Any]) -> Callable[[Any, bytearray], None]:
    def apply(spec: Any, _: bytearray) -> None:
        getattr(operations(spec)[at].attributes["val"].immediateValue.tensor, kind).values[:] = values

    return apply


def _set_weight(blob: Any, dtype: Any, shape: tuple[int, ...], change: Any) -> Callable[[Any, bytearray], None]:
    def apply(_: Any, weights: bytearray) -> None:
        held = np.frombuffer(bytes(weights[blob.data : blob.data + blob.size]), dtype).reshape(shape)
        changed = np.ascontiguousarray(change(held.astype(np.float64)), dtype)
        weights[blob.data : blob.data + blob.size] = changed.tobytes()

    return apply


class Judge:
    """One network at one precision: its cases, oracle and floors, and what its gate says of a package."""

    def __init__(self, name: str, precision: str) -> None:
        self.cell = Cell(name, "coreml", precision)
        network = zoo.model(name)
        inputs = [zoo.example(name, seed) for seed in range(1, CASES + 1)]
        self.cases = [Case(f"case{i}", {"x": x.numpy()}) for i, x in enumerate(inputs)]
        exact = copy.deepcopy(network).double()
        with torch.no_grad():
            outputs = [exact(x.double() if x.dtype.is_floating_point else x) for x in inputs]
        rows = [o if isinstance(o, tuple) else (o,) for o in outputs]
        self.specs = [OutputSpec(f"y{i}") for i in range(len(rows[0]))]
        self.oracle: Rows = [{s.name: v.numpy() for s, v in zip(self.specs, row, strict=True)} for row in rows]
        measured = natural("coreml", precision)
        self.floors = self._floors(network, measured.flavour if measured else None)
        self.storage = self._floors(network, STORAGE[precision]) if precision in STORAGE else {}
        self.limits = resolve([], self.cell)

    def _floors(self, network: torch.nn.Module, flavour: str | None) -> Any:
        names = [s.name for s in self.specs]
        given = [c.inputs for c in self.cases]
        with torch.no_grad():
            rows, _ = twin(network, given, names, recipe(self.cell.precision, flavour))
        return raw_floors(self.oracle, rows, self.cell.precision, self.specs)

    def run(self, path: Path, mode: str) -> Rows:
        """The outputs of a package by our names, in the order of the file."""
        program = parity.mil.load(path)
        found = [program.run(dict(case.inputs), mode=mode) for case in self.cases]
        return [dict(zip((s.name for s in self.specs), row.values(), strict=False)) for row in found]

    def broken(self, unrounded: Rows, declared: Rows) -> list[str]:
        """The metrics that are outside their limits; empty where the gate lets the file pass."""
        checks = []
        for spec in self.specs:
            if any(row[spec.name].shape != want[spec.name].shape
                   for row, want in zip(unrounded, self.oracle, strict=True)):  # fmt: skip
                return ["shape"]
            rows = [row[spec.name] for row in unrounded]
            if spec.name in self.storage:
                ratio = self.storage[spec.name].ratio(rows).pooled
                checks.append(judge.lowered(spec, "lowering_ratio", ratio, self.limits, ""))
            else:
                decibels, _ = worst_case(unrounded, self.oracle, spec.name, self.cases)
                checks.append(judge.lowered(spec, "lowering_db", decibels, self.limits, ""))
            limits = dict(self.limits)
            if spec.name not in self.floors:
                limits.setdefault("rel_rms", fallback(self.cell.precision))
            for case, row, want in zip(self.cases, declared, self.oracle, strict=True):
                checks += judge.check_output("golden", case.id, spec, row[spec.name], want[spec.name], limits)
            if spec.name in self.floors:
                names = [c.id for c in self.cases]
                rows = [row[spec.name] for row in declared]
                checks += judge.check_noise("golden", spec, names, rows, self.floors[spec.name], limits)
        return sorted({check.metric for check in checks if not passes(check)})


def differs(got: Rows, want: Rows) -> bool:
    """Whether any output of any case moved by more than 1e-9 of its size."""
    for g, w in zip(got, want, strict=True):
        for name, value in w.items():
            if name not in g or g[name].shape != value.shape:
                return True
            if not np.allclose(g[name], value, rtol=0, atol=1e-9 * float(np.abs(value).max() or 1.0), equal_nan=True):
                return True
    return False


def measure(name: str, precision: str, count: int, folder: Path, tally: Tally) -> None:
    """Judge `count` mutants of one package, chosen by a fixed seed, as many of each kind as there are."""
    whole = zoo.convert(zoo.model(name), zoo.example(name), folder / f"{name}-{precision}.mlpackage", precision)
    jury = Judge(name, precision)
    clean = jury.run(whole, "fp64")
    if broken := jury.broken(clean, jury.run(whole, "program")):
        raise ParityError(f"{name} at {precision}: the unchanged file already fails: {', '.join(broken)}")
    package = Package(whole)
    by_kind: dict[str, list[Mutant]] = {}
    for mutant in mutants(package):
        by_kind.setdefault(mutant.kind, []).append(mutant)
    chance = random.Random(f"{name} {precision}")
    for kind in by_kind:
        chance.shuffle(by_kind[kind])
    chosen = [m for rank in range(count) for kind in by_kind for m in by_kind[kind][rank : rank + 1]][:count]
    copied = folder / "mutant.mlpackage"
    for mutant in chosen:
        shutil.rmtree(copied, ignore_errors=True)
        shutil.copytree(whole, copied)
        inside = copied / "Data" / "com.apple.CoreML"
        spec = copy.deepcopy(package.spec)
        weights = bytearray((inside / "weights" / "weight.bin").read_bytes())
        mutant.apply(spec, weights)
        (inside / "model.mlmodel").write_bytes(spec.SerializeToString())
        (inside / "weights" / "weight.bin").write_bytes(weights)
        try:
            unrounded = jury.run(copied, "fp64")
            if not differs(unrounded, clean):
                tally.same[mutant.kind] += 1
                continue
            tally.counted[mutant.kind] += 1
            if jury.broken(unrounded, jury.run(copied, "program")):
                tally.failed[mutant.kind] += 1
            else:
                moved = min(worst_case(unrounded, clean, s.name, jury.cases)[0] for s in jury.specs)
                tally.survivors.append(f"{name} {precision}: {mutant.what}: {moved:.0f} dB from the original")
        except ParityError:
            tally.counted[mutant.kind] += 1
            tally.refused[mutant.kind] += 1


def main() -> int:
    """Exit code 0 if the bar holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=16, metavar="N", help="mutants of each package (default 16)")
    parser.add_argument("--networks", nargs="+", default=NETWORKS, choices=tuple(zoo.everything()), metavar="NAME")
    options = parser.parse_args()
    torch.set_num_threads(1)
    tally = Tally()
    with tempfile.TemporaryDirectory() as folder:
        for name in options.networks:
            for precision in ("fp32", "fp16"):
                measure(name, precision, options.each, Path(folder), tally)
                print(f"{name} {precision}: {tally.counted.total()} so far", file=sys.stderr, flush=True)
    print(f"{'kind':12}{'changed':>8}{'refused':>9}{'failed':>8}{'survived':>10}{'no change':>11}")
    for kind in sorted(tally.counted | tally.same):
        counted, refused, failed = tally.counted[kind], tally.refused[kind], tally.failed[kind]
        print(f"{kind:12}{counted:8}{refused:9}{failed:8}{counted - refused - failed:10}{tally.same[kind]:11}")
    total, noticed = tally.counted.total(), tally.refused.total() + tally.failed.total()
    print(f"{noticed} of {total} noticed ({noticed / max(total, 1):.1%}, bar {BAR:.0%})")
    for survivor in tally.survivors:
        print(f"survived: {survivor}")
    return 0 if total and noticed >= BAR * total else 1


if __name__ == "__main__":
    sys.exit(main())
