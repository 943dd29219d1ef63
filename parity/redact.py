"""What a record must not tell whoever reads a report: secrets of the environment, and where somebody's home is. Pure.

Reports are uploaded, mailed and attached to issues, while logs and messages of converters hold whatever these printed.
Free text is cleaned on its way into the record, once, so that no output has to.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parity.record import RunRecord, build, plain

_SECRET_NAME = re.compile(r"token|secret|passw|credential|api_?key|access_?key|private", re.IGNORECASE)
_SHORTEST = 8  # characters: a shorter value is a word like any other, and blanking it out would spoil sentences
_LOGIN = re.compile(r"(?<=://)[^/\s@]+(?=@)")
# Fields that hold free text. Names, ids, hashes and figures are never changed: they are keys of other outputs.
_TEXTS = {"reason", "log", "command", "text", "detail", "location", "sentence", "summary", "routes_failed", "partial"}


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
        if isinstance(value, dict):
            return {k: walk(v, k in _TEXTS) for k, v in value.items()}
        if isinstance(value, list):
            return [walk(v, free) for v in value]
        return clean(value) if free and isinstance(value, str) else value

    return build(RunRecord, walk(plain(record), False))
