"""The page about Core ML lists the operators that there are."""

import re
from pathlib import Path

from parity.mil.registry import OPERATORS, REFUSED, STRUCTURAL

PAGE = (Path(__file__).parents[2] / "docs" / "coreml.md").read_text()


def test_the_operator_list_equals_the_registry():
    listed = {}
    for family, names in re.findall(r"^- \*\*(.+?)\*\*: (.+)$", PAGE.split("## Operators")[1], re.MULTILINE):
        listed |= dict.fromkeys(re.findall(r"`(\w+)`", names), family)
    assert set(listed) == {*OPERATORS, *STRUCTURAL}
    assert all(listed[o.name] == o.family for o in OPERATORS.values())
    refused = PAGE.split("Refused by name:")[1]
    assert set(re.findall(r"`(\w+)`", refused)) == set(REFUSED)
