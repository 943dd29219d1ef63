"""What a person has looked at and accepted by name, `[[tool.parity.accept]]`, held against what is open."""

from __future__ import annotations

import datetime
from collections.abc import Collection, Sequence

from parity.core.plan import Cell
from parity.core.settings import Accepted
from parity.judging.judge import MOST_NAMED
from parity.session.session import Session
from parity.suite.recorder import Recorder

SIGNATURE = "signature "
MODULE = "module: "
CONSTANT = "constant: "
"""How the names of what is accepted begin, where it is no operator of the file."""
_OTHERS = (SIGNATURE, MODULE, CONSTANT)
_UNNEEDED = {
    "": "the file has no unexplained operator",
    SIGNATURE: "the file has no unmeasured",
    MODULE: "both ways were compared, or there is no decision",
    CONSTANT: "the file has no unexplained",
}


def still_open(names: Collection[str], what: str, accepted: Sequence[Accepted], parity: Recorder) -> list[str]:
    """Those of `names` that nobody accepted, or no longer. All of them begin with `what`, or with none of `_OTHERS`
    where that is empty. An acceptance that is in force is told, and one that nothing needs is warned of.
    """
    mine = {a.operator: a for a in accepted if _family(a.operator) == what}
    in_force = {name for name, a in mine.items() if a.expires >= datetime.date.today()}
    for name in names:
        if name in in_force:
            parity.find(f"accepted: {name} ({mine[name].reason})")
    for name in mine.keys() - set(names):
        parity.find(f"[[tool.parity.accept]]: {_UNNEEDED[what]} {name!r}", "warning")
    return [name for name in names if name not in in_force]


def warn(open_ones: Sequence[str], found: str, remedy: str, parity: Recorder) -> None:
    """Warn of what nobody accepted, the first few by name: `found` says what they are, `remedy` what else to do."""
    if not open_ones:
        return
    more = f" and {len(open_ones) - MOST_NAMED} more" if len(open_ones) > MOST_NAMED else ""
    named = f"{found}: {'; '.join(open_ones[:MOST_NAMED])}{more}"
    parity.find(f"{named}. {remedy} accept it: [[tool.parity.accept]] (docs/gate.md)", "warning")


def of_cell(session: Session, cell: Cell) -> list[Accepted]:
    """What was accepted of a cell."""
    return [a for a in session.config.accept if a.cell == cell.id]


def _family(name: str) -> str:
    return next((prefix for prefix in _OTHERS if name.startswith(prefix)), "")
