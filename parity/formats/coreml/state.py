"""Core ML files that keep a state between calls, such as the key and value cache of a language model.

The model itself stays without state: it takes the cache and gives the next one. `states = { keys = "next_keys" }` in
its table says which output replaces which input; with `stateful = true` the file holds that input as a Core ML state. A
measurement writes the state before a call and reads it after, so that the file is judged by the very cases that judge
the model without state. Core ML keeps states in float16 only, and needs iOS 18 or macOS 15. All of it in the child.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from parity.core.settings import ModelSpec
from parity.formats.coreml import convert as coreml
from parity.formats.coreml.classifier import arrays, labels
from parity.formats.target import Array
from parity.formats.torch.convert import SCRIPT_FILE
from parity.process.child import stage


def execute(
    program: Any, notes: Mapping[str, Any], given: Mapping[str, Array], mode: str = "program"
) -> dict[str, Array]:
    """Run a program of `parity.mil`: states are written from `given` before and read into the outputs after."""
    states: Mapping[str, str] = notes.get("states", {})
    if not states:
        dtype = "float32" if mode == "program" else "float64"
        return arrays(program.run(given, mode=mode), notes.get("outputs", {}), (), dtype)  # its classes are in order
    held = program.make_state()
    for name in states:
        held.write(name, given[name])
    got = dict(program.run({n: v for n, v in given.items() if n not in states}, mode=mode, state=held))
    return got | {output: _wide(held.read(name)) for name, output in states.items()}


def _wide(value: Array) -> Array:
    return value.astype(np.float32) if value.dtype == np.float16 else value


def predict(model: Any, notes: Mapping[str, Any], given: Mapping[str, Array]) -> dict[str, Array]:  # pragma: no cover
    """The same by Core ML itself (macOS)."""
    states: Mapping[str, str] = notes.get("states", {})
    if not states:
        return arrays(model.predict(given), notes["outputs"], labels(model.get_spec()), "float32")
    held = model.make_state()
    for name in states:
        held.write_state(name=name, value=given[name].astype(np.float16))
    got = dict(model.predict({n: v for n, v in given.items() if n not in states}, state=held))
    return got | {output: _wide(np.asarray(held.read_state(name=name))) for name, output in states.items()}


def trace(
    work: str, options: Mapping[str, Any], model: ModelSpec, contract: Mapping[str, Any],
    example: Mapping[str, Array], **_: Any,
) -> dict[str, Any]:  # fmt: skip
    """Trace the model with a buffer for each state, which the call replaces."""
    import torch

    from parity.reference import modelling

    module = modelling.load(model)
    stage("export")
    states: Mapping[str, str] = options["states"]
    taken = [s["name"] for s in contract["inputs"]]
    given = [s["name"] for s in contract["outputs"]]

    class Stateful(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module
            for name in states:
                self.register_buffer(name, torch.zeros(example[name].shape))

        def forward(self, *plain: torch.Tensor) -> Any:
            rest = iter(plain)
            inputs = {n: getattr(self, n) if n in states else next(rest) for n in taken}
            results = modelling.forward(self.module, inputs, given)
            for name, output in states.items():
                getattr(self, name)[:] = results[output]  # the assignment that coremltools takes for an update
            return tuple(results[n] for n in given if n not in states.values())

    arguments = tuple(torch.from_numpy(np.array(example[n])) for n in taken if n not in states)
    with modelling.plain_attention(), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(Stateful().eval(), arguments, check_trace=False)
    torch.jit.save(traced, str(Path(work, SCRIPT_FILE)))
    return {"entry": SCRIPT_FILE}


def convert(
    work: str, after: str, options: Mapping[str, Any], contract: Mapping[str, Any],
    example: Mapping[str, Array], **_: Any,
) -> dict[str, Any]:  # fmt: skip
    """Convert with the states declared; everything else is as without them."""
    import torch

    ct = coreml.tools()
    stage("convert")
    traced = torch.jit.load(str(Path(after, SCRIPT_FILE)), map_location="cpu")
    states: Mapping[str, str] = options["states"]
    held = [
        ct.StateType(wrapped_type=ct.TensorType(shape=example[name].shape, dtype=np.float16), name=name)
        for name in states
    ]
    declared = zip(contract["inputs"], coreml.inputs(contract, example), strict=True)
    inputs = [tensor for spec, tensor in declared if spec["name"] not in states]
    renamed = coreml.names(contract, "outputs")
    outputs = [ct.TensorType(name=own) for name, own in renamed.items() if name not in states.values()]
    file = coreml.save(traced, inputs, outputs, options, Path(work), states=held)
    made = coreml.notes(file, contract, example, options)
    made["inputs"] |= {name: {"name": name} for name in states}  # a state is no tensor of the file's interface
    made["outputs"] |= {output: {"name": output} for output in states.values()}
    return made | {"states": dict(states)}
