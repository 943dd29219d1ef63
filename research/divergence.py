"""First divergence, measured: is the right module named first, at what cost?

    python research/divergence.py modules [--models skin,judge] [--targets onnx,tflite,ncnn] [--precision fp32]
        [--each 2] [--store DIR] [--to FILE.jsonl] [--project FOLDER] [--plain]
    python research/divergence.py correct [--models ...]      no divergence in the zoo's own correct files
    python research/divergence.py memory [--models ...]       peak memory against plain inference
    python research/divergence.py table FILE.jsonl ...

`modules` puts each fault of one module's weights, and each fault of the graph confined to one module, into the model,
lets the target's own converter make a file of that, and asks where the file diverges. Counted are files whose outputs
are further off than four times what the precision costs. The answer is right where it names the module that holds the
fault; a module that is never called itself, because its parent reads its weights, counts as its parent. The chain of
proof bounds the place, as in the suite, unless `--plain` is given. `--project` is another project than this repository:
that of a stranger, as `research/strangers` makes it, with its packages on PYTHONPATH.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from parity import config as configuration  # noqa: E402
from parity import formats as targets  # noqa: E402
from parity.core.errors import ParityError  # noqa: E402
from parity.core.plan import Cell  # noqa: E402
from parity.core.record import plain  # noqa: E402
from parity.divergence import Bounds, DivergenceRequest, locate  # noqa: E402
from parity.faults.base import registered  # noqa: E402
from parity.faults.faulty import spec_of  # noqa: E402
from parity.faults.yardstick import Yardstick  # noqa: E402
from parity.judging.floor import raw_floors  # noqa: E402
from parity.proof import prove  # noqa: E402
from parity.reference import modelling, oracle  # noqa: E402
from parity.reference.messages import OracleRequest  # noqa: E402
from parity.session.artefacts import Artifact  # noqa: E402
from parity.session.divergence import bounds_of  # noqa: E402
from parity.session.proof import request_of  # noqa: E402
from parity.session.session import Session  # noqa: E402
from parity.store.cache import Store  # noqa: E402
from research.faults import Setting, flavour_of  # noqa: E402

CASES = 8
LAYERED = ("dead_channel", "sign_flipped", "bit_flipped", "bias_dropped", "kernel_transposed", "channels_swapped",
           "layer_6_bits", "layer_scaled", "statistics_reset")  # fmt: skip
SINGLE = ("stale_layer", "last_layer_stale", "depthwise_reversed")
CONFINED = {
    "batch_norm_epsilon": "BatchNorm2d", "layer_norm_epsilon": "LayerNorm", "norm_affine_lost": "",
    "silu_hard_swish": "SiLU", "hard_swish_silu": "Hardswish", "sigmoid_hard": "Sigmoid", "gelu_formula": "GELU",
    "relu6_unclipped": "ReLU6", "relu_clipped": "ReLU", "leaky_slope": "LeakyReLU", "same_padding": "Conv2d",
    "pool_counts_padding": "AvgPool2d", "gru_gate_order": "GRU", "attention_scale_dropped": "MultiheadAttention",
}  # fmt: skip


def faults(setting: Setting, each: int) -> Iterator[tuple[str, Any, str, str]]:
    """(fault, value, the module it is confined to, the module that holds it)."""
    module = modelling.load(setting.spec)
    subject = setting.bench("fp32").subject
    known = {f.name: f for f in registered("fp32")}
    for name in LAYERED:
        parameter = known[name].parameter
        assert parameter is not None and parameter.choices is not None
        choices = list(parameter.choices(subject, None))
        spread = sorted({round(k * (len(choices) - 1) / max(each - 1, 1)) for k in range(each)}) if choices else []
        for value in (choices[i] for i in spread):
            changed = known[name].on(subject, value)
            if changed is not None and changed.tensors:
                yield name, value, "", next(iter(changed.tensors)).rpartition(".")[0]
    for name in SINGLE:
        changed = known[name].on(subject)
        if changed is not None and changed.tensors:
            yield name, None, "", next(iter(changed.tensors)).rpartition(".")[0]
    for name, kind in CONFINED.items():
        if name not in known:
            continue
        there = [n for n, m in module.named_modules() if kind and type(m).__name__ == kind]
        for path in there[:: max(1, len(there) // each)][:each]:
            yield name, known[name].usual(subject), path, path


def called(setting: Setting) -> set[str]:
    """The modules that run when the model does: one whose weights its parent reads never does."""
    module, found = modelling.load(setting.spec), {""}
    hooks = [m.register_forward_pre_hook(lambda *_, n=n: found.add(n)) for n, m in module.named_modules()]
    with modelling.plain_attention():
        fed = {k: torch.from_numpy(v) for k, v in setting.inputs[0].items()}
        modelling.forward(module, fed, setting.outputs)
    for hook in hooks:
        hook.remove()
    return found


def right(setting: Setting, layer: str, truth: str) -> bool:
    running = called(setting)
    while truth not in running:
        truth = truth.rpartition(".")[0]
    return layer == (truth or type(modelling.load(setting.spec)).__name__)


def modules(setting: Setting, target: str, precision: str, args: argparse.Namespace, out: Any) -> None:
    cell, base = Cell(setting.model.name, target, precision), setting.session
    names = setting.outputs
    inputs = setting.inputs[:: max(1, len(setting.inputs) // CASES)][:CASES]
    wants = oracle.evaluate(OracleRequest(setting.spec, inputs, names)).outputs
    every = setting.twin(precision, flavour_of(cell))[:: max(1, len(setting.inputs) // CASES)][:CASES]
    yardstick = Yardstick(raw_floors(wants, every, precision, setting.model.contract.outputs))
    for fault, value, within, truth in faults(setting, args.each):
        spec = spec_of(setting.spec, plain(setting.model.contract), fault, plain(value), within)
        model = replace(setting.model, factory=spec.factory, options=spec.options, checkpoint=None)
        config = replace(base.config, models={model.name: model})
        session = Session(config, f"{fault}-{time.time()}", store=Store(Path(args.store)))
        session.children = base.children
        entry = {"cell": cell.id, "fault": fault, "value": plain(value), "truth": truth}
        try:
            runtime = session.runtime(cell)
            got = runtime.run(inputs)
            runtime.close()
            artifact = session.artifact(cell)
        except ParityError as error:
            out.write(json.dumps({**entry, "state": "not made", "reason": str(error)[:160]}) + "\n")
            continue
        off = [yardstick.pooled([w], [{k: g[k] for k in w}]) for w, g in zip(wants, got, strict=True)]
        if max(off) < 4:
            out.write(json.dumps({**entry, "state": "unnoticed", "off": max(off)}) + "\n")
            continue
        worst = max(range(len(off)), key=lambda i: off[i])
        start = time.monotonic()
        request = DivergenceRequest(
            setting.spec,
            targets.get(target).steps,
            precision,
            str(artifact.folder),
            artifact.notes,
            inputs[worst],
            names,
            flavour_of(cell),
            setting.calibration() if precision == "int8" else [],
            bounds=None if args.plain else bounds(setting, cell, artifact),
        )
        found = locate(request)
        told = plain(found.divergence)
        layer = told["layer"] if told else ""
        out.write(json.dumps({**entry, "state": "judged", "layer": layer, "right": right(setting, layer, truth),
                              "divergence": told, "reason": found.reason, "off": max(off),
                              "seconds": round(time.monotonic() - start, 2)}) + "\n")  # fmt: skip
        out.flush()


def bounds(setting: Setting, cell: Cell, artifact: Artifact) -> Bounds | None:
    """Where the chain of proof of a faulty file says that the fault is; None where none can be made."""
    cases = setting.session.golden(setting.model)
    request = request_of(setting.session, setting.model, cell, artifact, cases)
    calibration = setting.calibration() if cell.precision == "int8" else ()
    try:
        return bounds_of(prove(replace(request, calibration=calibration)))
    except ParityError as error:
        print(f"{cell}: no chain of proof: {error}", flush=True)
        return None


def correct(setting: Setting) -> None:
    for cell in setting.model.cells:
        try:
            artifact = setting.session.artifact(cell)
        except ParityError as error:
            print(f"{cell}: {error}")
            continue
        start = time.monotonic()
        request = DivergenceRequest(
            setting.spec,
            targets.get(cell.target).steps,
            cell.precision,
            str(artifact.folder),
            artifact.notes,
            setting.inputs[0],
            setting.outputs,
            flavour_of(cell),
            setting.calibration() if cell.precision == "int8" else [],
        )
        found = locate(request)
        told = found.divergence
        print(f"{cell}: {f'DIVERGES {told}' if told else found.reason or 'no divergence'}, {len(found.drift)} "
              f"tensors paired, {time.monotonic() - start:.1f} s", flush=True)  # fmt: skip


_PLAIN = """
import sys; sys.path.insert(0, {root!r})
import importlib, pickle, resource
from parity.reference import modelling
given = pickle.load(open({file!r}, 'rb'))
module = modelling.load(given['spec'])
import torch
session = getattr(importlib.import_module(given['module']), given['name'])(given['folder'], given['notes'])
if {walk}:
    from parity.divergence import DivergenceRequest, locate
    locate(DivergenceRequest(given['spec'], given['steps'], given['precision'], given['folder'], given['notes'],
                             given['case'], given['outputs'], given['flavour'], given['calibration']))
else:
    modelling.forward(module, {{k: torch.from_numpy(v) for k, v in given['case'].items()}}, given['outputs'])
    from parity.formats import serve
    serve._open[1] = (session, given['notes'])
    serve.run(serve.RunRequest(1, [given['case']]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def memory(setting: Setting) -> None:
    """Peak resident memory of a process that runs module and artefact once, and of one that finds the divergence."""
    import pickle

    from parity import formats as targets

    for cell in setting.model.cells:
        try:
            artifact = setting.session.artifact(cell)
        except ParityError:
            continue
        target = targets.get(cell.target)
        module, _, name = target.session.partition(":")
        given = {"spec": setting.spec, "module": module, "name": name, "folder": str(artifact.folder),
                 "notes": artifact.notes, "case": setting.inputs[0], "outputs": setting.outputs, "steps": target.steps,
                 "precision": cell.precision, "flavour": flavour_of(cell),
                 "calibration": setting.calibration() if cell.precision == "int8" else []}  # fmt: skip
        with tempfile.NamedTemporaryFile(suffix=".pickle") as file:
            pickle.dump(given, file)
            file.flush()
            peaks = []
            for walk in (False, True):
                code = _PLAIN.format(root=str(ROOT), file=file.name, walk=walk)
                done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT)
                peaks.append(int(done.stdout.split()[-1]) / 1024)
        print(f"{cell}: {peaks[0]:.0f} MiB plain, {peaks[1]:.0f} MiB, {peaks[1] / peaks[0]:.2f}", flush=True)


def table(files: list[str]) -> None:
    entries = [json.loads(line) for file in files for line in Path(file).read_text().splitlines()]
    latest = {(e["cell"], e["fault"], str(e["value"]), e["truth"]): e for e in entries}
    print("| cell | files with a fault | noticed | right module first |\n| --- | --- | --- | --- |")
    totals: dict[str, Counter[str]] = {}
    for cell in dict.fromkeys(e["cell"] for e in latest.values()):
        own = [e for e in latest.values() if e["cell"] == cell]
        made, seen = [e for e in own if e["state"] != "not made"], [e for e in own if e["state"] == "judged"]
        good = sum(e["right"] for e in seen)
        print(f"| {cell} | {len(made)} | {len(seen)} | {good} |")
        target = cell.split("-")[1]
        totals.setdefault(target, Counter()).update(seen=len(seen), good=good)
    for target, counts in totals.items():
        print(f"{target}: {counts['good']} of {counts['seen']} ({100 * counts['good'] / max(counts['seen'], 1):.1f} %)")
    for e in latest.values():
        if e["state"] == "judged" and not e["right"]:
            told = e["divergence"] or {}
            told_so = e["layer"] or e["reason"] or "none"
            figures = f"{told.get('operator')} {told.get('tensor')} {told.get('introduced')}, off {e['off']:.3g}"
            print(f"- {e['cell']} {e['fault']} {e['value']}: in {e['truth']}, named {told_so} ({figures})")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("modules", "correct", "memory", "table"))
    parser.add_argument("files", nargs="*")
    parser.add_argument("--models", default="skin")
    parser.add_argument("--targets", default="onnx")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--each", type=int, default=2, help="modules a fault")
    parser.add_argument("--store", default=str(Path(tempfile.gettempdir(), "parity-faulty")))
    parser.add_argument("--to", default="divergence.jsonl")
    parser.add_argument("--project", type=Path, default=ROOT)
    parser.add_argument("--plain", action="store_true")
    args = parser.parse_args()
    if args.what == "table":
        table(args.files)
        return 0
    session = Session(configuration.load(args.project / "pyproject.toml", targets.facts()), f"divergence-{time.time()}")
    try:
        for name in args.models.split(","):
            setting = Setting(session, session.config.models[name])
            if args.what == "correct":
                correct(setting)
            elif args.what == "memory":
                memory(setting)
            else:
                with open(args.to, "a", encoding="utf-8") as out:
                    for target in args.targets.split(","):
                        modules(setting, target, args.precision, args, out)
                        print(f"{name} {target} done", flush=True)
    finally:
        session.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
