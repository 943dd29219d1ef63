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
from dataclasses import asdict, dataclass
from pathlib import Path

from parity.core import strict_json
from parity.core.errors import ParityError
from parity.store import atomic
from parity.store.cache import Store


@dataclass(frozen=True)
class Epoch:
    """The epoch of a subject ("" before the first), and the keys that witnessed in it."""

    name: str = ""
    witnesses: tuple[str, ...] = ()


def current(store: Store, subject: str) -> Epoch:
    """The epoch that a subject is in. `subject` is a key: 64 hexadecimal digits."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        value = strict_json.loads(_path(store, subject).read_text(encoding="utf-8"))
        return Epoch(str(value["name"]), tuple(map(str, value["witnesses"])))
    return Epoch()


def witnessed(store: Store, subject: str, seen: Epoch, key: str) -> None:
    """Note that the entry `key` witnesses for the epoch `seen`. Raises ParityError."""
    with store.lock(f"epoch-{subject}"):
        epoch = current(store, subject)
        if epoch.name == seen.name and key not in epoch.witnesses:
            _write(store, subject, Epoch(epoch.name, (*epoch.witnesses, key)))


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
