"""The signatures of a TFLite file: by which of them it is measured, and what else an app may call. Child only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

GRAPH = "of the graph itself"  # its own inputs and outputs, which an interpreter runs that is asked for no signature
_DEFAULT = "serving_default"  # what TensorFlow's converters call a model's only signature


def chosen(signatures: Mapping[str, Mapping[str, Any]], notes: Mapping[str, Any]) -> str:
    """The signature that a file is run by: its only one, or the first that has the inputs and outputs of the notes, the
    default one before others. Empty where none has, and the graph's own tensors are meant.

    `signatures` holds the names of "inputs" and "outputs" of each.
    """
    if len(signatures) == 1:
        return next(iter(signatures))
    asked = {side: {entry["name"] for entry in notes.get(side, {}).values()} for side in ("inputs", "outputs")}
    fitting = [key for key, held in signatures.items() if all(asked[side] <= set(held[side]) for side in asked)]
    whole = [key for key in fitting if asked["inputs"] in (set(), set(signatures[key]["inputs"]))]
    return next((key for key in whole if key == _DEFAULT), next(iter(whole), ""))


def definition(model: Any, notes: Mapping[str, Any]) -> Any | None:
    """The signature by which the file of a parsed `model` is run; None where the graph's own tensors are meant."""
    by_key = {_text(entry.signatureKey): entry for entry in model.signatureDefs or []}
    names = {key: {side: list(_ports(entry, side)) for side in ("inputs", "outputs")} for key, entry in by_key.items()}
    return by_key.get(chosen(names, notes))


def inputs_of(entry: Any) -> dict[int, str]:
    """The names of a signature's inputs, by the number of the tensor."""
    return {number: name for name, number in _ports(entry, "inputs").items()}


def others(content: bytes, measured: str) -> list[str]:
    """The signatures of a file that give something else than the one that was `measured`: they are in another graph, or
    give a name to another tensor. `GRAPH` is among them where an interpreter that is asked for no signature takes or
    gives tensors that no signature names, in the first graph."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    by_key = {
        _text(entry.signatureKey): (entry.subgraphIndex, _ports(entry, "inputs"), _ports(entry, "outputs"))
        for entry in model.signatureDefs or []
    }
    unmeasured = [key for key, entry in by_key.items() if entry != by_key.get(measured)]
    graph = {side: set(map(int, getattr(model.subgraphs[0], side))) for side in ("inputs", "outputs")}
    covered = any(
        place == 0 and set(inputs.values()) == graph["inputs"] and set(outputs.values()) == graph["outputs"]
        for place, inputs, outputs in by_key.values()
    )
    return unmeasured if covered or not measured else [*unmeasured, GRAPH]


def _ports(entry: Any, side: str) -> dict[str, int]:
    """The tensors of a signature, by name."""
    return {_text(port.name): int(port.tensorIndex) for port in getattr(entry, side) or ()}


def _text(name: Any) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name or "")
