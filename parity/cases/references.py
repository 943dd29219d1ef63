"""Stored references: what the oracle gave for each golden case when somebody last looked, with the hash of the weights
and of the contract that it gave it for.

The oracle is computed anew in every run. A stored copy tells when it has become another one: by new weights, by a
changed contract or input, or by another version of torch. Writing is deliberate (`--parity-update`) and refused in CI.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from parity.core import strict_json
from parity.core.case import Array, Case, digest
from parity.core.contract import Contract
from parity.core.errors import ConfigError, ParityError
from parity.core.record import plain
from parity.files import npz
from parity.store import atomic

SCHEMA = "parity.references/1"
INDEX, ARRAYS = "references.json", "references.npz"
RENEW = "renew with pytest -m parity --parity-update, and review what changed"

Rows = Sequence[Mapping[str, Array]]


@dataclass(frozen=True)
class Stored:
    """What a references folder holds: what it was made from, the digest of each case's input, and the outputs."""

    made_from: Mapping[str, str]
    cases: Mapping[str, str]
    outputs: Mapping[str, Mapping[str, Array]] = field(repr=False)


@dataclass(frozen=True)
class Difference:
    """Cases by what became of them. `new`: no reference yet. `changed`: another input, model or contract than the
    reference was made from. `unused`: a reference that no golden case asks for; when written anew it is `removed`."""

    new: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    same: tuple[str, ...] = ()

    def written(self) -> str:
        """What an update did, in words that are each used for one thing."""
        counts = {"new": self.new, "changed": self.changed, "removed": self.unused, "unchanged": self.same}
        return ", ".join(f"{len(found)} {word}" for word, found in counts.items() if found) or "nothing"


def origin(fingerprint: Mapping[str, str], contract: Contract) -> dict[str, str]:
    """What references depend on beside the inputs: the model's tensors and structure, and its contract."""
    text = json.dumps(plain(contract), sort_keys=True)
    return {
        "weights": fingerprint["weights"],
        "structure": fingerprint["structure"],
        "contract": hashlib.sha256(text.encode()).hexdigest(),
    }


def read(folder: Path) -> Stored | None:
    """The references in a folder; None where there are none. Raises ParityError for a damaged folder."""
    try:
        text = (folder / INDEX).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ParityError(f"references {folder.name}: {INDEX} cannot be read: {error}; {RENEW}") from None
    try:
        index = strict_json.loads(text)
        if index["schema"] != SCHEMA:
            raise ValueError(f"schema {index['schema']!r}, this version reads {SCHEMA!r}")
        raw = (folder / ARRAYS).read_bytes()
        if hashlib.sha256(raw).hexdigest() != index["arrays"]:
            raise ValueError(f"{ARRAYS} is not the file that {INDEX} was written with")
        arrays = npz.load(io.BytesIO(raw))
        outputs: dict[str, dict[str, Array]] = {case: {} for case in index["cases"]}
        for number, case in enumerate(index["cases"]):
            for name, value in arrays.items():
                place, _, output = name.partition("/")
                if place == str(number):
                    outputs[case][output] = value
        return Stored(dict(index["made_from"]), dict(index["cases"]), outputs)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ParityError(f"references {folder.name}: damaged: {error!s:.200}; {RENEW}") from None


def compare(stored: Stored | None, cases: Sequence[Case], made_from: Mapping[str, str]) -> Difference:
    """Which of the golden cases have a reference that fits."""
    if stored is None:
        return Difference(new=tuple(c.id for c in cases))
    stale = dict(stored.made_from) != dict(made_from)
    known = [c for c in cases if c.id in stored.cases]
    changed = [c.id for c in known if stale or stored.cases[c.id] != digest([c])]
    return Difference(
        new=tuple(c.id for c in cases if c.id not in stored.cases),
        changed=tuple(changed),
        unused=tuple(sorted(set(stored.cases) - {c.id for c in cases})),
        same=tuple(c.id for c in known if c.id not in changed),
    )


def stale(name: str, stored: Stored | None, found: Difference, made_from: Mapping[str, str]) -> str:
    """Why stored references cannot be used, in one sentence; empty when they can."""
    if stored is None:
        return f"model {name}: no reference is stored yet; {RENEW.replace('renew', 'write them')}"
    other = [part for part in made_from if stored.made_from.get(part) != made_from[part]]
    if other:
        return f"model {name}: its stored references are stale: its {' and '.join(other)} changed; {RENEW}"
    unfit = {"new": found.new, "changed": found.changed}
    parts = [f"{len(ids)} {word} ({', '.join(ids[:3])})" for word, ids in unfit.items() if ids]
    return f"model {name}: golden cases without a reference that fits: {'; '.join(parts)}; {RENEW}" if parts else ""


def write(folder: Path, cases: Sequence[Case], rows: Rows, made_from: Mapping[str, str]) -> None:
    """Store the oracle's outputs of all golden cases. Raises ParityError, and then leaves the old ones as they were."""
    held = io.BytesIO()
    np.savez_compressed(held, **{f"{i}/{n}": v for i, row in enumerate(rows) for n, v in row.items()})
    index = {
        "schema": SCHEMA,
        "made_from": dict(made_from),
        "cases": {c.id: digest([c]) for c in cases},
        "arrays": hashlib.sha256(held.getvalue()).hexdigest(),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic.replacing(folder / ARRAYS) as path:
            path.write_bytes(held.getvalue())
        atomic.write_text(folder / INDEX, json.dumps(index, indent=1) + "\n")
    except OSError as error:
        raise ParityError(f"references {folder}: cannot be written: {error.strerror or error}") from None


def refuse_in_ci(environ: Mapping[str, str]) -> None:
    """Raises ConfigError where CI is set: a reference that a machine renews by itself holds nothing."""
    if environ.get("CI", "").lower() not in ("", "0", "false"):
        raise ConfigError("--parity-update is refused where CI is set: references are renewed and reviewed by a person")
