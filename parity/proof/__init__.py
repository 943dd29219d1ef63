"""The chain of proof: is an artefact the module that it was made from, up to what its precision costs?

Five links: *match* constants to torch tensors by content; *audit* each within half a step; *lift* the artefact's own
graph to float with the torch weights, which must equal the oracle; check each operator *local*ly on the artefact's own
inputs, on every kernel set; and see that the *range*s fit golden data. Beside them *copies*: constants that no audit
has seen, by value; and *operators*: what the file draws at random and decides by data, the module does too. `prove`
runs in a child process.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from parity.core.case import Array, spread
from parity.core.proof import LEFT_OUT, LINKS, Link, Proof
from parity.core.record import plain
from parity.proof.messages import ProofRequest

if TYPE_CHECKING:
    from parity.formats.graph import Artefact, Graph
    from parity.proof.audit import Audited
    from parity.proof.source import Source

LIFTED = 12  # cases: a structural fault that shows on none of so many is one that the noise ratio must find
ALONE = 3
RANGED = 48
_NONE = Link("copies", "proved")  # every table is audited: nothing to tell


def prove(request: ProofRequest) -> Proof:
    """The proof of one artefact, its figures as builtins. Links that cannot be made say so, with the reason.

    Raises ParityError only when the model itself is no good.
    """
    from parity.process.child import stage

    start = time.perf_counter()
    stage("prove")
    links, remains, read = chain(request)
    failed = any(link.state == "failed" for link in links)
    if "copies" not in request.held and (request.whole or not failed):
        links += _copies(request, read, links)
    if request.survey and "operators" not in request.held and (request.whole or not failed):
        links.append(_made("operators", partial(_operators, request)))
    return Proof(
        request.precision,
        tuple(replace(link, figures=plain(link.figures)) for link in links),
        plain(remains),
        round(time.perf_counter() - start, 3),
    )


@dataclass(frozen=True)
class Read:
    """What the chain has read for itself: the export of the module, the file, and its audited constants."""

    source: Source | None = None
    artefact: Artefact | None = None
    constants: Mapping[str, Audited] = field(default_factory=dict)

    @property
    def graph(self) -> Graph | None:
        return self.artefact.graph if self.artefact is not None else None

    @property
    def audited(self) -> frozenset[str]:
        return frozenset(name for name, a in self.constants.items() if a.sound)


def chain(request: ProofRequest) -> tuple[list[Link], float | None, Read]:
    """The links that were made, in their order, the error that remains of the whole file, and what was read."""
    from parity.formats.graph import NotPossible
    from parity.formats.target import load_part
    from parity.process.child import stage
    from parity.process.memory import give_back
    from parity.proof import audit, extra, lift, local, match, named, range, source
    from parity.reference import oracle
    from parity.reference.messages import OracleRequest

    cases, precision, whole = request.cases, request.precision, request.whole
    torch_side = None
    try:
        if request.off:
            raise NotPossible("switched off by the configuration (proof = false)")
        if not request.reader:
            raise NotPossible("no reader for files of this format")
        torch_side = source.source(request.model, cases[0], request.traced)
        notes = {**request.notes, "example": cases[0]}
        artefact = load_part(request.reader)(request.folder, notes, torch_side.bounds)
    except NotPossible as obstacle:
        return [Link(name, "not possible", reason=str(obstacle)) for name in LINKS], None, Read(torch_side)
    request = _following(request, artefact)
    left_out = len(cases) - len(request.cases)
    cases = request.cases
    matches: dict[str, match.Match] = {}
    if artefact.graph.named:
        audited, matched, sound = named.match_and_audit(artefact.graph, torch_side, precision)
    else:
        matches, matched = match.match(artefact.graph, torch_side)
        audited, sound = audit.audit(artefact.graph, matches, precision)
    chosen = spread(len(cases), LIFTED)
    some = [cases[i] for i in chosen]
    wants: Sequence[Mapping[str, Array]] = [request.wants[i] for i in chosen] if request.wants else []
    if not all(wants) or not wants:
        wants = oracle.evaluate(OracleRequest(request.model, some, request.outputs)).outputs
    few, many = ([cases[i] for i in spread(len(cases), n)] for n in (ALONE, RANGED))
    eager = source.eager_error(request.model, some[:3], wants, request.outputs)
    if sound.state == "failed":
        right: set[str] = set()
        if not artefact.graph.named:  # a name says what belongs there, whatever the lift makes of it
            right = _right_without_torch(lambda: lift.right_without_torch(artefact, audited, some, wants, eager))
        if right:
            matches = {name: found for name, found in matches.items() if name not in right}
            audited, sound = audit.audit(artefact.graph, matches, precision)
            sound = replace(sound, figures={**sound.figures, "by_lift": sorted(right)})
        if not whole and sound.state == "failed":
            return [matched, sound], None, Read()
    read = Read(torch_side, artefact, audited)
    nowhere = extra.unexplained(artefact.graph, read.audited, torch_side)
    matched = replace(matched, figures={**matched.figures, "unexplained": nowhere})
    weights = lift.replacements(artefact.graph, audited)
    made = [matched, sound]
    for name, make in (
        ("lift", lambda: lift.lift(artefact, torch_side, audited, some, wants, eager, whole)),
        ("local", lambda: local.local(artefact, few, whole)),
        ("range", lambda: range.range_(artefact, weights, many, precision, request.calibration, lift.kept(made))),
    ):
        if name in request.held:
            continue
        stage(name)
        reason = request.ended.get(name)
        link = _made(name, make) if reason is None else Link(name, "not possible", reason=reason)
        if name == "local" and whole:
            link = _weighed(link, partial(local.weighed, link, artefact, some, wants))
        if name == "range":
            link = _weighed(link, partial(range.weighed, link, artefact, weights, some, wants))
        made.append(link)
        give_back()
        if not whole and made[-1].state == "failed":
            return made, None, read
    stage("prove")
    remains = None
    if whole or any(link.figures.get("widened_by") for link in made):
        with contextlib.suppress(Exception):  # a file that the runtime refuses: the links say so
            remains = lift.whole_error(artefact, some, wants)
    made = [lift.blind(link, remains) for link in made]
    by_name = {link.name: link for link in made}
    made[0] = match.settled(matched, by_name.get("lift", Link("lift", "proved")))
    if left_out:
        made[0] = replace(made[0], figures={**made[0].figures, LEFT_OUT: left_out})
    return made, remains if whole else None, read


def _following(request: ProofRequest, artefact: Artefact) -> ProofRequest:
    """The request with the inputs alone that take the branches of the file which are read: those of the first case."""
    from parity.formats.graph import branched, follows

    if not branched(artefact):
        return request
    places = [i for i, case in enumerate(request.cases) if follows(artefact, case)]
    return replace(
        request,
        cases=[request.cases[i] for i in places],
        wants=[request.wants[i] for i in places] if request.wants else request.wants,
        calibration=[case for case in request.calibration if follows(artefact, case)],
    )


def _right_without_torch(find: Callable[[], set[str]]) -> set[str]:
    """What `find` finds; nothing where the runtime refuses the file."""
    try:
        return find()
    except Exception:  # native runtimes raise what they like
        return set()


def _copies(request: ProofRequest, read: Read, links: Sequence[Link]) -> list[Link]:
    """The link `copies`, where the audit was not made or has not seen every table. An audit that fails says enough."""
    from parity.formats.graph import branched
    from parity.proof.copies import copies, open_tables

    if any(link.name == "audit" and link.state == "failed" for link in links):
        return []
    whole = read.graph is not None and not branched(read.artefact)  # constants of other branches have no audit
    if whole and read.graph is not None and not open_tables(read.graph, read.audited):
        return []
    audited = read.audited if whole else None
    made = _made("copies", lambda: copies(request, audited, read.source) or _NONE)
    return [] if made is _NONE else [made]


def _operators(request: ProofRequest) -> Link:
    from parity.proof.operators import operators

    return operators(request.survey, request.folder, request.notes, request.model, request.cases[0])


def _weighed(link: Link, weigh: Callable[[], Link]) -> Link:
    """What `weigh` makes of a link. One that cannot be weighed stays as it is: a fault is a fault until it is shown to
    cost little."""
    try:
        return weigh()
    except Exception:  # NotPossible, or whatever a native runtime raises
        return link


def _made(name: str, make: Callable[[], Link]) -> Link:
    """A link, or why it could not be made: native runtimes refuse a damaged file with whatever exception they like."""
    from parity.formats.graph import NotOffered, NotPossible

    try:
        return make()
    except NotPossible as obstacle:
        return Link(name, "not possible", reason=str(obstacle), offered=not isinstance(obstacle, NotOffered))
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return Link(name, "not possible", reason=f"the runtime refuses the file: {lines[0][:200]}")
