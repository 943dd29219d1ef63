"""What a proof of an artefact found, as bare data: its links, each with state, figures, culprits and reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["proved", "failed", "not possible"]
SHARP = 1e-4  # relative rms; a lift that may be further off than this settles nothing beside the noise ratio
LINKS = ("match", "audit", "lift", "local", "range")  # of constants and values; `operators` comes beside them
LEFT_OUT = "cases_of_other_branches"  # figure of `match`: golden cases that run through a part of the file not proved
DECISIVE = ("match", "audit", "lift")  # without one of these no chain says that a file is the module


@dataclass(frozen=True)
class Culprit:
    """Where a link broke. `kind` says what `name` is: a tensor, an operator, a part of the structure, or the runtime.

    `name` is the PyTorch name where one is known (`features.0.0.weight`), else the artefact's. `channels` are indices
    along the tensor's output axis, worst first. A part of the structure lies between two tensors of the module: the
    layer of `after` is the last that reads what it should, that of `before` the first that does not; "" at an end.
    """

    kind: Literal["tensor", "operator", "structure", "runtime"]
    name: str
    what: str
    channels: tuple[int, ...] = ()
    after: str = ""
    before: str = ""

    def __str__(self) -> str:
        where = f" channels {', '.join(map(str, self.channels[:4]))}" if self.channels else ""
        more = f" and {len(self.channels) - 4} more" if len(self.channels) > 4 else ""
        return f"{self.name}{where}{more}: {self.what}"


@dataclass(frozen=True)
class Link:
    """One link of the chain. `reason` is set where the link could not be made, and says why; never silently."""

    name: str
    state: State
    figures: Mapping[str, Any] = field(default_factory=dict)
    culprits: tuple[Culprit, ...] = ()
    reason: str = ""
    offered: bool = True  # False: no file of this format can have it

    @staticmethod
    def judged(name: str, figures: Mapping[str, Any], culprits: list[Culprit]) -> Link:
        """Failed when somebody is to blame, else proved."""
        return Link(name, "failed" if culprits else "proved", figures, tuple(culprits))


@dataclass(frozen=True)
class Proof:
    """The chain for one artefact. `quantisation` is the relative rms error against the oracle that remains."""

    precision: str
    links: tuple[Link, ...]
    quantisation: float | None = None
    seconds: float = 0.0

    def link(self, name: str) -> Link:
        """The link of that name. Raises KeyError where it was not made."""
        return {link.name: link for link in self.links}[name]

    @property
    def state(self) -> State:
        """Failed when a link failed; not possible when one could not be made; proved when all that the format
        offers hold."""
        states = {link.state for link in self.links if link.offered}
        return "failed" if "failed" in states else "not possible" if "not possible" in states else "proved"

    @property
    def complete(self) -> bool:
        """Whether the chain by itself decides that the file is right: constants, structure and, where the format offers
        them, operators and ranges hold, and the lift was held to a limit that nothing widened."""
        proved = {link.name: link.figures for link in self.links if link.state == "proved"}
        if self.state != "proved" or not proved.keys() >= set(DECISIVE):
            return False
        limit = proved["lift"].get("limit")
        return limit is not None and limit <= SHARP and not proved["lift"].get("widened_by")

    @property
    def summary(self) -> str:
        """One line for a user."""
        failed = [link for link in self.links if link.state == "failed"]
        if failed:
            return f"{self.precision}: not faithful: " + "; ".join(_blame(link) for link in failed)
        open_links = [link for link in self.links if link.state == "not possible" and link.offered]
        said = ", ".join(words for link in self.links if link.state == "proved" and (words := _words(link)))
        verdict = "not proved" if open_links else "faithful"
        line = f"{self.precision}: {verdict}" + (f" ({said})" if said else "")
        line += "".join(f"; {link.name} not possible: {link.reason}" for link in open_links)
        line += "".join(f"; no {link.name}: {link.reason}" for link in self.links if not link.offered)
        if self.quantisation is not None and not open_links:
            line += f"; {_cost(self.precision)} {_percent(self.quantisation)} rms"
            clipped = next((link.figures.get("clip_share") for link in self.links if link.name == "range"), None)
            if clipped is not None:
                line += f" (calibration fine: {_percent(clipped)} clipped)"
        return line


def _blame(link: Link) -> str:
    first = str(link.culprits[0]) if link.culprits else link.reason
    more = len(link.culprits) - 1
    return f"{link.name}: {first}" + (f" (and {more} more)" if more > 0 else "")


def _words(link: Link) -> str:
    figures = link.figures
    if link.name == "lift":
        return f"lift {figures['relative_rms']:.1e}"
    if link.name == "audit":
        return f"{figures['within']}/{figures['tensors']} tensors within {figures['unit']}"
    if link.name == "local":
        return f"{figures['within']}/{figures['operators']} operators within {figures['unit']}"
    return ""


def _cost(precision: str) -> str:
    return {"fp32": "rounding costs", "fp16": "rounding costs"}.get(precision, "quantisation costs")


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share >= 1e-4 or share == 0 else f"{100 * share:.1e} %"
