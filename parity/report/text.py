"""Strings and numbers as a person reads them: visible control characters, honest rounding, units.

Nothing here escapes for HTML or Markdown; that is the work of the renderers. Imports only the
standard library and `parity.core.visible`.
"""

from __future__ import annotations

import hashlib
import math
import re

from parity.core.visible import visible as visible
from parity.core.words import plural as plural

_PLAIN_ANCHOR = re.compile(r"[A-Za-z][A-Za-z0-9_.]*(-[A-Za-z0-9_.]+)+")


def clip(text: str, length: int, *, end: bool = False) -> str:
    """`text` cut to `length` characters with a note of how many are left out; `end` keeps its end (a log)."""
    more = len(text) - length
    if more <= 0:
        return text
    note = f"… {more:,} more characters in parity.json"
    return f"[{note}]\n{text[more:]}" if end else f"{text[:length]} [{note}]"


def anchor(name: str) -> str:
    """An HTML id for a cell: its own id where that is plain, else its plain characters and a hash."""
    if len(name) <= 120 and _PLAIN_ANCHOR.fullmatch(name):
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"c-{re.sub('[^A-Za-z0-9_.]+', '_', name)[:60]}-{digest}"


def number(value: float | None, digits: int = 4) -> str:
    """Four significant digits; a score just under 1 as its distance from 1, never as a perfect 1."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return str(value)
    if value == int(value) and abs(value) < 1e9:
        return f"{int(value):,}"
    if 0.999 < value < 1:
        return f"1 − {_short(1 - value, min(digits, 3) if digits <= 4 else digits)}"
    return _short(value, digits)


def _short(value: float, digits: int) -> str:
    text = f"{value:.{digits}g}"
    mantissa, e, exponent = text.partition("e")
    return f"{mantissa}e{int(exponent)}" if e else text


def against(value: float | None, limit: float | None) -> tuple[str, str]:
    """Value and limit with as many digits as it takes to tell them apart."""
    for digits in (4, 6, 9, 12, 17):
        pair = number(value, digits), number(limit, digits)
        if value == limit or pair[0] != pair[1]:
            break
    return pair


def percent(share: float | None) -> str:
    """A share of a limit: never rounded across the limit, so 99.97 % reads 99 % and 100.03 % reads 101 %."""
    if share is None:
        return "–"
    share = max(share, 0.0)
    if share > 10:
        return f"{share:,.0f}×" if share < 1e5 else f"{_short(share, 2)}×"
    if share > 1:
        return f"{-int(-share * 100 // 1)} %"
    if 0 < share < 0.001:
        return "<0.1 %"
    return f"{share * 100:.1f} %" if 0 < share < 0.0995 else f"{int(share * 100 + 1e-9)} %"


def size(count: int | None) -> str:
    """Bytes in SI units with three digits."""
    if count is None:
        return "–"
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 999.5 or unit == "GB":
            break
        amount /= 1000
    return f"{count} B" if unit == "B" else f"{amount:.3g} {unit}" if amount < 999.5 else f"{amount:,.0f} {unit}"


def seconds(amount: float | None) -> str:
    """A duration in the unit in which a person would say it."""
    if amount is None:
        return "–"
    if amount < 1:
        return f"{amount * 1000:.3g} ms"
    if amount < 120:
        return f"{amount:.3g} s"
    minutes = round(amount / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def ratio(now: float | None, before: float | None) -> str:
    """`now` in multiples of `before`, or nothing where that has no meaning."""
    if now is None or before is None or before <= 0:
        return ""
    return f"{now / before:.2f}×" if now / before < 100 else f"{now / before:,.0f}×"
