"""Line numbers of keys, against what the standard parser says is there."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from parity.files.toml_lines import key_lines

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TEXT = '''\
# a comment
top = 1

[a]
x = "# no comment"   # one
"quoted key" = 2
'single' = 3
dotted.inner.deep = 4

  [a.b]  # indented
  list = [
    1, 2,  # [a.fake]
    "]",
    3,
  ]
  after = 5

[[rows]]
n = 1
[[rows]]
n = 2
[[rows.sub]]
m = 1

[c]
long = """
[c.not_a_table]
not_a_key = 1
"""
literal = \'\'\'
also_not = 2
\'\'\'
inline = { p = 1, "q r" = 2, s.t = 3 }
end = "\\" still = inside"
last = 9
'''

EXPECTED = {
    ("top",): 2,
    ("a",): 4,
    ("a", "x"): 5,
    ("a", "quoted key"): 6,
    ("a", "single"): 7,
    ("a", "dotted"): 8,
    ("a", "dotted", "inner"): 8,
    ("a", "dotted", "inner", "deep"): 8,
    ("a", "b"): 10,
    ("a", "b", "list"): 11,
    ("a", "b", "after"): 16,
    ("rows", "0"): 18,
    ("rows", "0", "n"): 19,
    ("rows", "1"): 20,
    ("rows", "1", "n"): 21,
    ("c",): 25,
    ("c", "long"): 26,
    ("c", "literal"): 30,
    ("c", "inline"): 33,
    ("c", "inline", "p"): 33,
    ("c", "inline", "q r"): 33,
    ("c", "end"): 34,
    ("c", "last"): 35,
}


@pytest.mark.parametrize(("path", "line"), EXPECTED.items(), ids=[".".join(p) for p in EXPECTED])
def test_every_kind_of_key_has_its_line(path: tuple[str, ...], line: int) -> None:
    tomllib.loads(TEXT)  # the text is valid
    assert key_lines(TEXT)[path] == line


def test_what_stands_inside_a_string_or_a_comment_is_no_key() -> None:
    names = {part for path in key_lines(TEXT) for part in path}
    assert not names & {"not_a_table", "not_a_key", "also_not", "fake", "still"}


def test_windows_line_ends_and_a_missing_last_newline() -> None:
    assert key_lines("a = 1\r\n[b]\r\nc = 2") == {("a",): 1, ("b",): 2, ("b", "c"): 3}


def test_an_empty_text_has_no_keys() -> None:
    assert key_lines("") == {} and key_lines("\n\n# x\n") == {}


TRICKY = [
    'a = "x" # " quote in a comment\nb = 1\n',
    "a = 'C:\\' # backslash ends a literal string\nb = 1\n",
    'a = """x"""\nb = 1\n',
    'a = """\\""" still inside"""\nb = 1\n',
    'a = """two quotes at the end"""""\nb = 1\n',
    "a = '''it''s'''\nb = 1\n",
    'a = ["[", "]", "{"]\nb = 1\n',
    "a = [[1, [2]], [3]]\nb = 1\n",
    "a = [ # comment with ]\n  1 ]\nb = 1\n",
    "a = [\n\n]\nb = 1\n",
    "a = { x = [1,\n 2] }\nb = 1\n",
    'a = "}"\nb = 1\n',
    '"a.b" = 1\nb = 1\n',
    '"a]" = 1\nb = 1\n',
    "a = 1979-05-27T07:32:00Z\nb = 1\n",
    'a = """\n\n[x]\n"""\nb = 1\n',
    'a = "\\\\"\nb = 1\n',
]


@pytest.mark.parametrize("text", TRICKY)
def test_the_key_after_something_tricky_is_found_on_its_line(text: str) -> None:
    tomllib.loads(text)
    line = next(n for n, row in enumerate(text.splitlines(), 1) if row.startswith("b ="))
    assert key_lines(text)[("b",)] == line


def paths(data: Any, at: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    found: set[tuple[str, ...]] = set()
    for key, value in data.items():
        found.add((*at, key))
        if isinstance(value, dict):
            found |= paths(value, (*at, key))
    return found


def test_this_project_s_own_file_has_a_line_for_every_key_of_its_tables(request: pytest.FixtureRequest) -> None:
    text = (request.config.rootpath / "pyproject.toml").read_text(encoding="utf-8")
    lines, rows = key_lines(text), text.splitlines()
    for path in paths(tomllib.loads(text)["tool"]["parity"], ("tool", "parity")):
        if path in lines:
            assert path[-1] in rows[lines[path] - 1]
    assert ("tool", "parity", "models", "skin", "factory") in lines
