"""Text of somebody else's as a person may safely see it: on a terminal, in a CI log, in a report.

Names and messages come from files, converters and records. A control character among them could clear a screen, forge
a line of a verdict, or begin a command that a CI runner obeys. Imports only the standard library.
"""

from __future__ import annotations

import re

_LAYOUT = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\ufffe\uffff\ud800-\udfff]"
)
_LAYOUT_BUT_LINES = re.compile(_LAYOUT.pattern.replace("\x00-\x1f", "\x00-\x08\x0b-\x1f"))


def _symbol(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20:
        return chr(0x2400 + code)
    return "\u2421" if code == 0x7F else f"‹U+{code:04X}›"


def visible(text: str, *, lines: bool = False) -> str:
    """`text` with every control, direction and unpaired surrogate character as a symbol that can be seen.

    With `lines`, line feeds and tabs stay, for text that is shown as it was written (a log).
    """
    return (_LAYOUT_BUT_LINES if lines else _LAYOUT).sub(_symbol, text)
