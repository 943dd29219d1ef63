"""A stateful Core ML file is judged by the cases of the model without state: written before a call, read after it."""

from __future__ import annotations

from typing import Any

import numpy as np

from parity.formats.coreml.state import execute

NOTES = {"states": {"keys": "next_keys"}}


class Held:
    def __init__(self) -> None:
        self.values: dict[str, Any] = {"keys": np.zeros(3, np.float16)}

    def write(self, name: str, value: Any) -> None:
        self.values[name] = value.astype(np.float16)

    def read(self, name: str) -> Any:
        return self.values[name].copy()


class Program:
    """Adds the token to its state; `forgets` is a file whose state is never updated."""

    def __init__(self, forgets: bool = False) -> None:
        self.forgets, self.fed = forgets, list[str]()

    def make_state(self) -> Held:
        return Held()

    def run(self, inputs: Any, mode: str = "program", state: Held | None = None) -> dict[str, Any]:
        self.fed = list(inputs)
        if state is None:
            return {"y": inputs["token"]}
        total = state.values["keys"] + inputs["token"].astype(np.float16)
        if not self.forgets:
            state.values["keys"] = total
        return {"y": total.astype(np.float32)}


def test_the_state_is_written_before_and_read_after() -> None:
    program = Program()
    given = {"token": np.ones(3, np.float32), "keys": np.array([1, 2, 3], np.float32)}
    for _ in range(2):  # nothing is left over from the call before
        got = execute(program, NOTES, given)
        np.testing.assert_array_equal(got["y"], [2, 3, 4])
        np.testing.assert_array_equal(got["next_keys"], [2, 3, 4])
    assert got["next_keys"].dtype == np.float32 and program.fed == ["token"]


def test_a_state_that_is_never_updated_shows() -> None:
    given = {"token": np.ones(3, np.float32), "keys": np.array([1, 2, 3], np.float32)}
    np.testing.assert_array_equal(execute(Program(forgets=True), NOTES, given)["next_keys"], [1, 2, 3])


def test_a_file_without_states_is_run_as_it_is() -> None:
    program = Program()
    assert list(execute(program, {}, {"token": np.ones(1)})) == ["y"] and program.fed == ["token"]
