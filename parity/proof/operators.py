"""The link `operators`: what a file draws at random and decides by data, the module draws and decides too.

Random numbers that the module does not draw are a fault. A decision that the module does not make is told: a converter
may have written an operator out so (`explaining.py`).
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from parity.core.case import Array
from parity.core.decisions import Decision
from parity.core.proof import Culprit, Link
from parity.core.settings import ModelSpec
from parity.formats.graph import NotPossible
from parity.formats.survey import Node, Survey
from parity.formats.target import load_part
from parity.proof.bends import bends
from parity.proof.explaining import absent, excess, fewer, unexplained
from parity.proof.overflows import overflows, placed_by_values
from parity.reference import decisions, modelling
from parity.reference.decisions import Behaviour

_LARGEST = 1 << 31
_EVAL = "the module does not draw it: export after module.eval(), without functional dropout in training mode"
_BATCH = "the module uses its running statistics: export after module.eval()"


def operators(reader: str, folder: str, notes: Mapping[str, Any], spec: ModelSpec, case: Mapping[str, Array]) -> Link:
    """The link for one file, with a run of the module on one case. Raises NotPossible where the file cannot be read."""
    survey: Survey = load_part(reader)(folder, notes)
    module = modelling.load(spec)
    before = _state(module)
    own = decisions.behaviour(module, case)
    stateful = _state(module) != before
    culprits = [_culprit(node, own) for node in survey.random() if not (stateful and node.meaning == "state")]
    decided = survey.decisions()
    script = _scripted(module) if any(decision.family == "process" for decision in decided) else None
    own.decisions += script or []
    always = _always(survey, case)
    strange = unexplained(decided, own, survey.parted())
    if always is not survey:
        strange += [other for other in unexplained(always.decisions(), own, always.parted()) if other not in strange]
    strange += excess(always, own)
    strange += bends(always, own)
    strange += [other for other in (*overflows(always, own), *placed_by_values(always, own)) if other not in strange]
    if script is not None:
        culprits += [_of_process(decision) for decision in strange if decision.family == "process"]
    figures = {
        "nodes": sum(bool(node.operator) for node in survey.nodes),
        "decisions": len(decided),
        "unexplained": [str(decision) for decision in strange],
        "module_random": sorted({*own.random}),
        "absent": sorted(absent(decided, own)),
        "fewer": sorted(fewer(survey, decided, own)),
        "thresholds": sorted(_whole(survey.thresholds() | survey.zeros() | own.thresholds)),
    }
    return Link.judged("operators", figures, [culprit for culprit in culprits if culprit is not None])


def _always(survey: Survey, case: Mapping[str, Array]) -> Survey:
    """The survey of what runs for inputs of these sizes."""
    if not survey.parted() or survey.taken is None:
        return survey
    try:
        return survey.taken(case)
    except NotPossible:  # what is not in a branch is counted all the same
        return survey


def _of_process(decision: Decision) -> Culprit:
    return Culprit("operator", decision.operator, f"at {decision.place}, reads the process or the memory of a tensor, "
                   "which outputs follow; the module's own script does not")  # fmt: skip


def _scripted(module: torch.nn.Module) -> list[Decision] | None:
    """What the module's own code reads of the process: a script holds it as it is written, and no run shows it. None
    where the module cannot be scripted."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            torch.jit.script(module).save(str(Path(folder, "module.pt")))
            survey: Survey = load_part("parity.formats.torch.survey:script")(folder, {"entry": "module.pt"})
        except Exception:  # not everything can be scripted
            return None
    return [decision for decision in survey.decisions() if decision.family == "process"]


def _whole(values: Iterable[float]) -> set[int]:
    """Those of `values` that an integer input may hold; larger ones stand for infinity."""
    return {int(value) for value in values if abs(value) < _LARGEST and value == int(value)}


def _state(module: torch.nn.Module) -> list[tuple[Any, ...]]:
    """What a module keeps from call to call: its plain attributes, and which tensors it holds in which version."""
    kept: list[tuple[Any, ...]] = []
    for name, part in module.named_modules():
        plain = ((key, value) for key, value in vars(part).items() if isinstance(value, _KEPT) or value is None)
        stored = (*part.named_buffers(recurse=False), *part.named_parameters(recurse=False))
        kept += [(name, key, _content(value)) for key, value in (*plain, *stored)]
    return kept


_KEPT = (bool, int, float, str, torch.Tensor, list, dict)


def _content(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return id(value), value._version
    if isinstance(value, dict):
        return [(str(key), _content(entry)) for key, entry in value.items()]
    if isinstance(value, list):
        return [_content(entry) for entry in value]
    return value if isinstance(value, (bool, int, float, str)) else id(value)


def _culprit(node: Node, own: Behaviour) -> Culprit | None:
    if node.meaning == "state":
        return Culprit("operator", node.operator, f"{_at(node)}keeps state for the next call, which outputs "
                       "follow; the module keeps none")  # fmt: skip
    if node.meaning == "training":
        return None if own.training else Culprit("operator", node.operator, f"{_at(node)}normalises by the batch at "
                                                  f"hand; {_BATCH}")  # fmt: skip
    return None if own.random else Culprit("operator", node.operator, f"{_at(node)}draws random numbers; {_EVAL}")


def _at(node: Node) -> str:
    return f"at {node.place}, " if node.place else ""
