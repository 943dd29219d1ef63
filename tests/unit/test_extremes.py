"""Inputs of one level: which there are, what they hold, and that they are recipes like any other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from parity.cases import strategies
from parity.cases.extremes import MOST_SWEEPS, edges, extremes, sweep
from parity.cases.golden import normalised
from parity.cases.recipes import EXTREMES, Recipe, variable
from parity.core.contract import Contract, InputSpec, OutputSpec, Preprocess
from parity.core.errors import ParityError

OUTPUTS = (OutputSpec("y"),)
HOW = Preprocess((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 255.0)
PICTURE = Contract((InputSpec("image", ("batch", 3, 8, 10), range=(-2.2, 2.7)),), OUTPUTS, HOW)
TOKENS = Contract(
    (InputSpec("ids", ("batch", "length"), "int32", (0, 99)), InputSpec("mask", ("batch", "length"), "bool")), OUTPUTS
)


def kinds(contract: Contract, **padding: int) -> list[set[str]]:
    return [{fill.kind for fill in recipe.inputs.values()} for recipe in extremes(contract, padding)]


def test_a_picture_is_tried_flat_black_and_white() -> None:
    found = {next(iter(r.inputs.values())).kind: r.arrays(PICTURE)["image"] for r in extremes(PICTURE)}
    assert list(found) == ["zeros", "lowest", "highest", "black", "white"]
    assert not found["zeros"].any() and (found["lowest"] == np.float32(-2.2)).all()
    image = pytest.importorskip("PIL.Image")
    for kind, pixel in (("black", 0), ("white", 255)):
        as_read = normalised(image.new("RGB", (10, 8), (pixel,) * 3), HOW, (8, 10))
        np.testing.assert_array_equal(found[kind][0], as_read)


def test_ids_are_tried_all_padding_with_a_mask_that_hides_all() -> None:
    padded = extremes(TOKENS, {"ids": 7})[-1].arrays(TOKENS)
    assert (padded["ids"] == 7).all() and not padded["mask"].any()
    for recipe in extremes(TOKENS, {"ids": 7})[:-1]:
        assert recipe.arrays(TOKENS)["mask"].all()
    low, high = (extremes(TOKENS)[i].arrays(TOKENS)["ids"] for i in (0, 1))
    assert (low == 0).all() and (high == 99).all()


def test_no_input_is_tried_twice() -> None:
    unit = Contract((InputSpec("image", (1, 3, 4, 4), range=(0, 1)),), OUTPUTS, Preprocess(scale=255.0))
    assert kinds(unit) == [{"zeros"}, {"highest"}]
    assert kinds(Contract((InputSpec("ids", (1, 4), "int64", (1, 5)),), OUTPUTS)) == [{"zeros"}, {"highest"}]


@pytest.mark.parametrize("contract", [PICTURE, TOKENS], ids=["picture", "tokens"])
def test_an_extreme_prints_what_it_made_and_is_kept_and_parsed(contract: Contract) -> None:
    for recipe in extremes(contract):
        assert Recipe.parse(recipe.json(), contract) == recipe
        for spec in contract.inputs:
            shape = spec.sized(recipe.dims)
            names: dict[str, Any] = {"np": np}
            exec(recipe.inputs[spec.name].line(spec, shape), names)
            np.testing.assert_array_equal(names[variable(spec.name)], recipe.arrays(contract)[spec.name])


@pytest.mark.parametrize("levels", ["[]", "[1,2]", '["0"]', "[1e40]"])
def test_levels_that_are_none_are_refused(levels: str) -> None:
    text = extremes(PICTURE)[0].json().replace('"levels":[0.0]', f'"levels":{levels}')
    with pytest.raises(ParityError, match="levels of image"):
        Recipe.parse(text, PICTURE)


def test_nothing_that_is_drawn_is_an_extreme() -> None:
    drawn = strategies.draw(strategies.recipes(PICTURE), 40, 1)
    assert not {fill.kind for recipe in drawn for fill in recipe.inputs.values()} & set(EXTREMES)
    assert '"levels"' not in drawn[0].json()


def test_integers_are_tried_around_the_numbers_that_a_graph_decides_by() -> None:
    recipes = edges(TOKENS, [0, 37, 500])
    assert [str(r.inputs["ids"]) for r in recipes] == [
        *(f"edge {value}" for value in (0, 1, 36, 37, 38)), "edge_at_one 0", "edge_at_one 37",
    ]  # fmt: skip
    for recipe in recipes:
        ids = recipe.arrays(TOKENS)["ids"]
        level = recipe.inputs["ids"].levels[0]
        assert (ids == level).any() and (ids == level).all() == (recipe.inputs["ids"].kind == "edge")
        assert ids.min() >= 0 and ids.max() <= 99 and recipe.arrays(TOKENS)["mask"].all()
        assert Recipe.parse(recipe.json(), TOKENS) == recipe and recipe.on_edge
    assert edges(PICTURE, [0, 37]) == []


def test_a_state_is_tried_beyond_the_range_that_golden_data_shows() -> None:
    count = Contract((InputSpec("n", (1,), "int64", (0, 6)),), OUTPUTS)
    assert [r.arrays(count)["n"].item() for r in edges(count, [64], ["n"])] == [63, 64, 65]
    assert edges(count, [64]) == [] and edges(count, [1 << 20], ["n"]) == []


@pytest.mark.parametrize(("rows", "last"), [(100, 99), (64, 63), (1000, 99), (5, 4)])
def test_a_sweep_holds_every_id_of_range_and_table(rows: int, last: int) -> None:
    dims = {"batch": 2, "length": 7}
    made = sweep(TOKENS, {"ids": rows}, dims)
    arrays = [recipe.arrays(TOKENS) for recipe in made.recipes]
    assert set(np.unique([a["ids"] for a in arrays])) == set(range(last + 1)) and made.left == {}
    assert len(arrays) == -(-(last + 1) // 14) and all(a["mask"].all() for a in arrays)
    for recipe in made.recipes:
        assert Recipe.parse(recipe.json(), TOKENS) == recipe
        line = recipe.inputs["ids"].line(TOKENS.inputs[0], (2, 7))
        values: dict[str, Any] = {"np": np}
        exec(line, values)
        np.testing.assert_array_equal(values["ids"], recipe.arrays(TOKENS)["ids"])


def test_a_sweep_says_what_was_too_much() -> None:
    words = Contract((InputSpec("ids", (1, 4), "int64"),), OUTPUTS)
    made = sweep(words, {"ids": 8 * MOST_SWEEPS}, {})
    assert len(made.recipes) == MOST_SWEEPS and made.left == {"ids": (4 * MOST_SWEEPS, 8 * MOST_SWEEPS)}


def test_only_integers_are_swept() -> None:
    assert sweep(PICTURE, {"image": 100}, PICTURE.example()).recipes == ()
    assert sweep(TOKENS, {"mask": 100}, TOKENS.example()).recipes == ()
