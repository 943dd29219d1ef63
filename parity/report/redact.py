"""What a record must not tell whoever reads a report: secrets of the environment, and where somebody's home is. Pure.

Reports are uploaded, mailed and attached to issues, while logs and messages of converters hold whatever these printed.
Free text is cleaned on its way into the record, once, so that no output has to.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from parity.core.record import RunRecord

_SECRET_NAME = re.compile(r"token|secret|passw|credential|api_?key|access_?key|private", re.IGNORECASE)
_SHORTEST = 8  # characters: a shorter value is a word like any other, and blanking it out would spoil sentences
_LOGIN = re.compile(r"(?<=://)[^/\s@]+(?=@)")
# Fields that hold free text. Names, ids, hashes and figures are never changed: they are keys of other outputs.
_TEXTS = {"reason", "log", "command", "text", "detail", "location", "sentence", "summary", "routes_failed",
          "faults_failed", "words", "partial"}  # fmt: skip


def redacted(record: RunRecord, home: Path, environ: Mapping[str, str]) -> RunRecord:
    """The record with `~` for the home folder, and `***` for secret values of the environment and logins in URLs."""
    secrets = sorted({v for k, v in environ.items() if _SECRET_NAME.search(k) and len(v) >= _SHORTEST}, key=len)
    place = str(home).rstrip("/")

    def clean(text: str) -> str:
        for secret in reversed(secrets):  # the longest first: one may be part of another
            text = text.replace(secret, "***")
        text = _LOGIN.sub("***", text)
        return re.sub(rf"{re.escape(place)}(?=[/\\\s'\":;,)]|$)", "~", text) if len(place) > 1 else text

    def walk(value: Any, free: bool) -> Any:
        """`value`, or a copy where a text in it changed."""
        if isinstance(value, str):
            return new if free and (new := clean(value)) != value else value
        if is_dataclass(value) and not isinstance(value, type):
            changed = {f.name: new for f in fields(value)
                       if (new := walk(old := getattr(value, f.name), f.name in _TEXTS)) is not old}  # fmt: skip
            return replace(value, **changed) if changed else value
        if isinstance(value, Mapping):
            made = {k: walk(v, k in _TEXTS) for k, v in value.items()}
            return made if any(made[k] is not v for k, v in value.items()) else value
        if isinstance(value, (list, tuple)):
            walked = [walk(v, free) for v in value]
            return type(value)(walked) if any(new is not old for new, old in zip(walked, value, strict=True)) else value
        return value

    found: RunRecord = walk(record, False)
    return found
