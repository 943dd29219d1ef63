"""What `--parity-baseline` and `--parity-save-baseline` do in a run: find the ledger, judge against it, write it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from parity.core.errors import ConfigError
from parity.core.record import BaselineRecord, RunRecord
from parity.core.words import plural
from parity.judging import baseline, gate
from parity.judging.baseline import Baseline
from parity.store import atomic

SHOWN = 20  # accepted changes that the terminal lists


def write(path: Path, record: RunRecord) -> int:
    """Write the ledger of `record` to `path`, whole or not at all; returns its number of cells. Raises ParityError."""
    atomic.publish({path: baseline.save(record)})
    return len(baseline.of(record).cells)


@dataclass
class Keeper:
    """The ledger of one run. `refused` is set when it was to be written and was not: such a run does not exit 0."""

    path: Path
    name: str  # as the record and the terminal name it: no machine's folders
    known: Baseline | None
    save: bool
    refused: bool = False
    latency_blocks: bool = False
    lines: list[tuple[str, str]] = field(default_factory=list)

    @classmethod
    def prepare(
        cls, root: Path, partial: str | None, options: Mapping[str, Any], environ: Mapping[str, str] = os.environ,
        *, latency_blocks: bool = False,
    ) -> Keeper:  # fmt: skip
        """The keeper that the options ask for. Raises ConfigError before anything is run for what cannot end well."""
        named, save = options.get("baseline"), bool(options.get("save_baseline"))
        path = root / (named or baseline.DEFAULT_PATH)
        if save and environ.get("CI", "").lower() not in ("", "0", "false") and not named:
            raise ConfigError(
                "--parity-save-baseline is refused where CI is set: a ledger is reviewed before it is kept; "
                "run it at your desk, or name the file with --parity-baseline PATH"
            )
        if save and partial:
            raise ConfigError(f"--parity-save-baseline needs the whole plan, and this run is narrowed ({partial})")
        known = None
        if path.exists() or (named and not save):
            known = baseline.read(path)
        name = path.relative_to(root).as_posix() if path.is_relative_to(root) else str(named)
        return cls(path, name, known, save, latency_blocks=latency_blocks)

    def judge(self, record: RunRecord) -> RunRecord:
        """The record judged against the ledger; with `--parity-save-baseline` and a pass, the ledger written anew.

        Saving accepts what changed: the new ledger is what the run is judged against. The review of its lines decides.
        """
        compared = baseline.attach(self.known, record, self.name) if self.known else record
        if self.latency_blocks:
            compared = replace(compared, baseline=_latency_regressed(compared.baseline))
        if not self.save:
            self._tell(compared)
            return gate.judge(compared)
        accepted = gate.judge(replace(compared, baseline=BaselineRecord(self.name)))
        if accepted.verdict != "pass":
            self.refused = True
            self.lines = [("red", f"baseline: not written: the verdict is {accepted.verdict}, and only a pass is kept")]
            return gate.judge(compared)
        count = write(self.path, record)
        skipped = sum(cell.state == "unavailable" for cell in record.cells)
        without = f"; without {plural(skipped, 'cell')} that cannot run here" if skipped else ""
        self.lines = [
            ("", f"baseline: wrote {self.name}, {plural(count, 'cell')}{without}; review its lines and commit it")
        ]
        changes = compared.baseline.regressions
        for change in changes[:SHOWN]:
            self.lines.append(("yellow" if change.state == "regressed" else "", f"  accepted: {baseline.told(change)}"))
        if len(changes) > SHOWN:
            self.lines.append(("", f"  and {len(changes) - SHOWN} more"))
        return accepted

    def _tell(self, record: RunRecord) -> None:
        changes = record.baseline.regressions
        if not changes:
            return
        styles = {"regressed": "red", "slower": "yellow"}
        self.lines = [(styles[c.state], baseline.told(c)) for c in changes if c.state in styles][:SHOWN]
        counts = {state: sum(c.state == state for c in changes) for state in dict.fromkeys(c.state for c in changes)}
        self.lines.append(("", f"baseline {self.name}: " + ", ".join(f"{n} {state}" for state, n in counts.items())))
        other = next((c for c in changes if c.state == "incomparable"), None)
        if other:
            self.lines.append(("yellow", f"  not compared: {baseline.told(other)}"))
        made_otherwise = next((c for c in changes if c.state == "changed"), None)
        if made_otherwise:
            self.lines.append(("yellow", f"  made otherwise: {baseline.told(made_otherwise)}"))


def _latency_regressed(found: BaselineRecord) -> BaselineRecord:
    changes = (replace(c, state="regressed") if c.state == "slower" else c for c in found.regressions)
    return replace(found, regressions=tuple(changes))
