"""The guard behind the fingerprint: what it takes for stale, and what a new epoch sets aside."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parity.process.isolate import ChildFailure
from parity.session.guard import BEYOND, BEYOND_FLOAT32, Guarded, Outputs, disagreement, guarded
from parity.store import epochs
from parity.store.cache import Store, key_of

FINGERPRINT = {"weights": "1" * 64}
CASE = {"x": np.arange(3.0)}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


class Model:
    """A model that multiplies by something that no fingerprint knows."""

    def __init__(self, scale: float = 1.0, dtype: str = "float64"):
        self.scale, self.dtype, self.runs = scale, dtype, 0

    def __call__(self, case: Mapping[str, Any]) -> Outputs:
        self.runs += 1
        return Outputs({"y": case["x"] * self.scale}, self.dtype)


def held(store: Store, model: Any) -> Guarded:
    return guarded(store, "skin", FINGERPRINT, lambda: CASE, model)


def test_a_model_that_stays_as_it_is_runs_once_each_time(store: Store) -> None:
    model = Model()
    for run in range(1, 4):
        assert held(store, model) == Guarded(FINGERPRINT)
        assert model.runs == run


def test_a_model_that_became_another_gets_a_new_epoch_and_the_report_says_so(store: Store) -> None:
    held(store, Model(1.0))
    changed = held(store, Model(1.5))
    assert set(changed.fingerprint) == {"weights", "epoch"}
    said = "model skin computes something else than is stored of it (y: by 0.5 of its rms)"
    assert said in changed.finding
    assert held(store, Model(1.5)) == Guarded(changed.fingerprint)
    back = held(store, Model(1.0))
    assert back.finding and back.fingerprint["epoch"] != changed.fingerprint["epoch"]


def test_a_case_that_changed_meanwhile_is_no_matter(store: Store) -> None:
    held(store, Model(1.0))
    other = {"x": np.ones(5)}
    assert guarded(store, "skin", FINGERPRINT, lambda: other, Model()) == Guarded(FINGERPRINT)


def test_another_fingerprint_has_an_epoch_of_its_own(store: Store) -> None:
    held(store, Model(1.0))
    held(store, Model(2.0))
    other = {"weights": "2" * 64}
    assert guarded(store, "skin", other, lambda: CASE, Model(3.0)) == Guarded(other)


def test_two_runs_that_find_the_same_staleness_share_one_new_epoch(store: Store) -> None:
    held(store, Model(1.0))
    seen = epochs.current(store, key_of(FINGERPRINT))
    first = held(store, Model(2.0))
    epochs.ended(store, key_of(FINGERPRINT), seen)  # the other run, which looked before
    assert epochs.current(store, key_of(FINGERPRINT)).name == first.fingerprint["epoch"]
    assert held(store, Model(2.0)) == Guarded(first.fingerprint)


def test_epochs_that_never_settle(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process makes each new epoch's witness first. Nobody shares the epoch in the end."""
    held(store, Model(1.0))
    ended = epochs.ended

    def meanwhile(*given: Any) -> None:
        ended(*given)
        monkeypatch.undo()
        held(store, Model(1.0))
        monkeypatch.setattr(epochs, "ended", meanwhile)

    monkeypatch.setattr(epochs, "ended", meanwhile)
    found = held(store, Model(2.0))
    assert found.fingerprint["epoch"] != epochs.current(store, key_of(FINGERPRINT)).name


def failing(state: str) -> Any:
    def evaluate(case: Mapping[str, Any]) -> Outputs:
        raise ChildFailure(state, "oracle", "KeyError: 'SCALE'")

    return evaluate


def test_a_model_that_fails_now_is_not_what_is_stored(store: Store) -> None:
    held(store, Model(1.0))
    failed = held(store, failing("error"))
    assert failed.fingerprint["epoch"] and "(it fails: KeyError: 'SCALE')" in failed.finding
    assert held(store, failing("error")) == Guarded(failed.fingerprint)


@pytest.mark.parametrize("state", ["timeout", "crash"])
def test_a_busy_machine_tells_nothing_of_the_model(state: str, store: Store) -> None:
    held(store, Model(1.0))
    assert held(store, failing(state)) == Guarded(FINGERPRINT)
    changed = held(store, Model(2.0))
    assert held(store, failing(state)) == Guarded(changed.fingerprint)  # its epoch is not forgotten


@pytest.mark.parametrize("how", ["swept", "damaged"])
def test_a_witness_that_is_gone_vouches_for_nothing(how: str, store: Store) -> None:
    """A sweep takes the oldest first, so it may take the witness and leave the stale results."""
    held(store, Model(1.0))
    for folder in (store.root / "objects").iterdir():
        if how == "swept":
            shutil.rmtree(folder)
        else:
            (folder / "witness.npz").write_bytes(b"")
    again = held(store, Model(2.0))
    assert again.fingerprint["epoch"] and not again.finding
    assert held(store, Model(2.0)) == again


def test_a_model_that_draws_noise_raises_no_alarm(store: Store) -> None:
    rng = np.random.default_rng(0)

    def noisy(case: Mapping[str, Any]) -> Outputs:
        return Outputs({"y": rng.normal(size=4)}, "float64")

    for _ in range(3):
        assert held(store, noisy) == Guarded(FINGERPRINT)


@pytest.mark.parametrize(
    ("dtype", "moved", "stale"),
    [
        ("float64", 1e-12, False),
        ("float64", 1e-4, True),
        ("float32", 1e-5, False),  # another machine's float32, where the module has no float64
        ("float32", 1e-2, True),
    ],
)
def test_another_machine_rounds(dtype: str, moved: float, stale: bool, store: Store) -> None:
    held(store, Model(1.0, dtype))
    assert bool(held(store, Model(1.0 + moved, dtype)).finding) == stale


Y = np.array([1.0, 2.0, 3.0])


@pytest.mark.parametrize(
    ("after", "words"),
    [
        ({"y": Y}, ""),
        ({"y": Y * (1 + BEYOND / 2)}, ""),
        ({"y": Y * (1 + BEYOND * 2)}, "y: by 2e-06 of its rms"),
        ({"y": Y, "z": Y}, "outputs ['y', 'z'] instead of ['y']"),
        ({"y": Y[:2]}, "y: shape [2] instead of [3]"),
        ({"y": np.array([1.0, np.nan, 3.0])}, "y: values that are not finite"),
    ],
)
def test_what_two_rows_of_outputs_differ_in(after: dict[str, Any], words: str) -> None:
    assert disagreement({"y": Y}, after, BEYOND) == words


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        (np.array([np.nan, 1.0]), np.array([np.nan, 1.0]), True),
        (np.array([np.inf, 1.0]), np.array([-np.inf, 1.0]), False),
        (np.array([np.inf, 1.0]), np.array([2.0, 1.0]), False),
        (np.zeros(3), np.zeros(3), True),
        (np.zeros(3), np.full(3, 1e-3), False),
        (np.arange(3), np.arange(3), True),
        (np.arange(3), np.array([0, 1, 3]), False),
        (np.zeros(0), np.zeros(0), True),
    ],
)
def test_values_that_are_special(before: Any, after: Any, same: bool) -> None:
    assert (disagreement({"y": before}, {"y": after}, BEYOND) == "") == same


def test_the_limits_are_far_from_what_machines_and_changes_do() -> None:
    assert 1e-9 < BEYOND < 1e-5 < BEYOND_FLOAT32 < 1e-2
