"""A Core ML file in a failing input's script: Core ML does not run everywhere, this project's evaluator does."""

from __future__ import annotations

from collections.abc import Mapping

from parity.formats.snippet import Failing, by_session, mapping


def lines(a: Failing, fed: Mapping[str, str], output: str) -> list[str]:
    if a.notes.get("states"):
        return by_session(a, fed, output)
    given = {n: f"{v}.astype(np.int32)" if n in a.integers else v for n, v in fed.items()}
    return ["from parity import mil", f"got = mil.load({a.path()!r}).run({mapping(given)})[{output!r}]"]
