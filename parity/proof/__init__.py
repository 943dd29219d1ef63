"""The chain of proof: is an artefact the module that it was made from, up to what its precision costs?

Five links: *match* constants to torch tensors by content; *audit* each within half a step; *lift* the artefact's own
graph to float with the torch weights, which must equal the oracle; check each operator *local*ly on the artefact's own
inputs, on every kernel set; and see that the *range*s fit golden data. `prove` runs in a child process.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

LIFTED = 12  # cases: a structural fault that shows on none of so many is one that the noise ratio must find
ALONE = 3
RANGED = 48


def prove(
    model: Mapping[str, Any],
    reader: str,
    precision: str,
    folder: str,
    notes: Mapping[str, Any],
    cases: Sequence[Mapping[str, np.ndarray[Any, Any]]],
    outputs: list[str],
    calibration: Sequence[Mapping[str, np.ndarray[Any, Any]]] = (),
    whole: bool = True,
    wants: Sequence[Mapping[str, np.ndarray[Any, Any]]] | None = None,
    known: Collection[str] = (),
) -> dict[str, Any]:
    """The proof of one artefact as builtins: state, summary, seconds, and each link by name.

    `model` is what `parity.reference.modelling.load` takes, `reader` the target's `graph`, `notes` the artefact's,
    `cases` golden inputs by the model's names, `calibration` what an int8 file was calibrated on, `wants` the oracle's
    outputs where they are known already, `known` the links that hold already and are not made again. Not `whole`: one
    link that fails is answer enough; none is made after it, and nothing that only describes. Links that cannot be made
    say so, with the reason. Raises ParityError only when the model itself is no good.
    """
    from parity.process.child import stage
    from parity.proof.result import builtins

    start = time.perf_counter()
    stage("prove")
    result = _chain(
        model, reader, precision, folder, notes, cases, outputs, calibration, whole, wants, known,
        lambda: time.perf_counter() - start,
    )  # fmt: skip
    return dict(builtins(result))


def _chain(
    model: Mapping[str, Any],
    reader: str,
    precision: str,
    folder: str,
    notes: Mapping[str, Any],
    cases: Sequence[Mapping[str, np.ndarray[Any, Any]]],
    outputs: list[str],
    calibration: Sequence[Mapping[str, np.ndarray[Any, Any]]],
    whole: bool,
    wants: Sequence[Mapping[str, np.ndarray[Any, Any]]] | None,
    known: Collection[str],
    clock: Callable[[], float],
) -> Any:
    from parity.core.case import spread
    from parity.formats.graph import NotPossible
    from parity.formats.target import load_part
    from parity.proof import audit, lift, local, match, range, result, source
    from parity.reference import modelling, oracle
    from parity.reference.messages import OracleRequest

    try:
        torch_side = source.source(model, cases[0])
        artefact = load_part(reader)(folder, notes, torch_side.bounds)
    except NotPossible as obstacle:
        links = tuple(result.Link(name, "not possible", reason=str(obstacle)) for name in result.LINKS)
        return result.Proof(precision, links, seconds=clock())
    matches, matched = match.match(artefact.graph, torch_side)
    audited, sound = audit.audit(artefact.graph, matches, precision)
    if not whole and "failed" in (matched.state, sound.state):
        return result.Proof(precision, (matched, sound), seconds=clock())
    chosen = spread(len(cases), LIFTED)
    some = [cases[i] for i in chosen]
    their = (
        [wants[i] for i in chosen]
        if wants
        else oracle.evaluate(OracleRequest(modelling.spec_of(model), some, outputs)).outputs
    )
    few, many = ([cases[i] for i in spread(len(cases), n)] for n in (ALONE, RANGED))
    eager = source.eager_error(model, some[:3], their[:3], outputs)
    weights = lift.replacements(artefact.graph, audited)
    made = [matched, sound]
    for name, make in (
        ("lift", lambda: lift.lift(artefact, torch_side, audited, some, their, eager, whole)),
        ("local", lambda: local.local(artefact, few, whole)),
        ("range", lambda: range.range_(artefact, weights, many, precision, calibration)),
    ):
        if name in known:
            continue
        made.append(_made(name, make))
        if not whole and made[-1].state == "failed":
            return result.Proof(precision, tuple(made), seconds=clock())
    remains = None
    if whole:
        with contextlib.suppress(Exception):  # a file that the runtime refuses: the links say so
            remains = lift.whole_error(artefact, some, their)
    return result.Proof(precision, tuple(made), remains, clock())


def _made(name: str, make: Callable[[], Any]) -> Any:
    """A link, or why it could not be made: native runtimes refuse a damaged file with whatever exception they like."""
    from parity.formats.graph import NotOffered, NotPossible
    from parity.proof.result import Link

    try:
        return make()
    except NotPossible as obstacle:
        return Link(name, "not possible", reason=str(obstacle), offered=not isinstance(obstacle, NotOffered))
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return Link(name, "not possible", reason=f"the runtime refuses the file: {lines[0][:200]}")
