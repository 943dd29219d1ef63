"""What sets aside a subject's entries that were found to be stale: its epoch, a part of their keys.

A subject begins in no epoch. A new one has a name that no other has, so that no key made with it
meets an older entry; these stay where they are until the store is swept. Beside the epoch stand the
keys of the entries that witness for it: when one of these is gone, nothing tells whether the others
are stale.
"""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from parity.core import strict_json
from parity.core.errors import ParityError
from parity.store import atomic
from parity.store.cache import Store


@dataclass(frozen=True)
class Epoch:
    """The epoch of a subject ("" before the first), the keys that witnessed in it, and what was read for its entries:
    hashes by name, of each kind."""

    name: str = ""
    witnesses: tuple[str, ...] = ()
    reads: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def current(store: Store, subject: str) -> Epoch:
    """The epoch that a subject is in. `subject` is a key: 64 hexadecimal digits."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        value = strict_json.loads(_path(store, subject).read_text(encoding="utf-8"))
        return Epoch(str(value["name"]), tuple(map(str, value["witnesses"])), dict(value.get("reads", {})))
    return Epoch()


def witnessed(store: Store, subject: str, seen: Epoch, key: str) -> None:
    """Note that the entry `key` witnesses for the epoch `seen`. Raises ParityError."""
    with store.lock(f"epoch-{subject}"):
        epoch = current(store, subject)
        if epoch.name == seen.name and key not in epoch.witnesses:
            _write(store, subject, replace(epoch, witnesses=(*epoch.witnesses, key)))


def read(store: Store, subject: str, name: str, reads: Mapping[str, Mapping[str, str]]) -> None:
    """Note what was read for an entry of the epoch `name`; what is noted already stays as it is. Raises ParityError."""
    if not any(reads.values()) or not _unknown(current(store, subject), reads):
        return
    with store.lock(f"epoch-{subject}"):
        epoch = current(store, subject)
        if epoch.name == name and _unknown(epoch, reads):
            joined = {kind: {**reads[kind], **epoch.reads.get(kind, {})} for kind in reads}
            _write(store, subject, replace(epoch, reads=joined))


def _unknown(epoch: Epoch, reads: Mapping[str, Mapping[str, str]]) -> bool:
    return any(reads[kind].keys() - epoch.reads.get(kind, {}).keys() for kind in reads)


def ended(store: Store, subject: str, seen: Epoch) -> None:
    """Begin a new epoch, unless another process has ended `seen` already. Raises ParityError."""
    with store.lock(f"epoch-{subject}"):
        if current(store, subject).name == seen.name:
            _write(store, subject, Epoch(new_name()))


def new_name() -> str:
    """A name that no epoch has."""
    return uuid.uuid4().hex


def _path(store: Store, subject: str) -> Path:
    return store.root / "epochs" / f"{subject}.json"


def _write(store: Store, subject: str, epoch: Epoch) -> None:
    path = _path(store, subject)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_text(path, json.dumps(asdict(epoch)), sync=True)
    except OSError as error:
        reason = error.strerror or error
        raise ParityError(f"cache {store.root}: {reason}") from None
