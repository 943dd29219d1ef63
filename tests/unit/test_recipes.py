"""Recipes: what is drawn is what a snippet prints, the same for everybody, kept when it fails and found again."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parity import formats
from parity.cases import kept, strategies
from parity.cases.drawing import Drawing
from parity.cases.recipes import (
    EXPRESSIONS,
    MAGNITUDES,
    Fill,
    Recipe,
    kinds,
    layouts,
    register_recipe,
    variable,
    viewed,
)
from parity.core.contract import Contract, InputSpec, OutputSpec
from parity.core.errors import ParityError
from parity.core.plan import Cell
from parity.core.settings import ModelConfig
from parity.formats import snippet
from parity.formats.target import Target

IMAGE = InputSpec("image", ("batch", 3, 8, 10), range=(-2.2, 2.7))
IDS = InputSpec("ids", ("batch", "length"), "int32", (1, 126))
MASK = InputSpec("mask", ("batch", "length"), "bool")
MANY = Contract((IMAGE, IDS, MASK), (OutputSpec("y"),), None, {"batch": (1, 2, 3), "length": (7, 12)})
ONE = Contract((InputSpec("x", ("batch", 4), range=(-1, 1)),), (OutputSpec("y"),), None, {"batch": (1, 2, 3)})


@pytest.mark.parametrize("spec", [IMAGE, IDS, MASK], ids=lambda s: s.name)
def test_every_kind_fills_its_shape_within_its_range_and_prints_what_it_made(spec: InputSpec) -> None:
    shape = (2, 3, 8, 10) if spec is IMAGE else (2, 7)
    for kind in kinds(spec):
        for magnitude in MAGNITUDES if spec is IMAGE else (1.0,):
            fill = Fill(kind, 5, magnitude)
            made = fill.array(spec, shape)
            names: dict[str, Any] = {"np": np}
            exec(fill.line(spec, shape), names)
            np.testing.assert_array_equal(names[variable(spec.name)], made)
            assert made.shape == shape and made.dtype == spec.dtype and made.flags.c_contiguous
            low, high = spec.range or (0, 1)
            reach = max(1.0, magnitude)
            assert made.min() >= low * reach - 1e-6 and made.max() <= high * reach + 1e-6, (kind, magnitude)


def test_pictures_have_a_spectrum_that_falls_and_impulses_a_single_element() -> None:
    power = np.abs(np.fft.fft2(Fill("natural", 1).array(IMAGE, (1, 3, 64, 64))[0, 0].astype(float))) ** 2
    low, high = power[1:4, 1:4].mean(), power[28:36, 28:36].mean()
    assert low > 100 * high
    assert (Fill("impulse", 3).array(IMAGE, (1, 3, 8, 10)) != 0).sum() == 1


def test_masks_are_never_empty() -> None:
    for kind in EXPRESSIONS["mask"]:
        for seed in range(50):
            assert Fill(kind, seed).array(MASK, (3, 7)).any(-1).all()


def test_views_hold_the_same_elements_elsewhere() -> None:
    value = Fill("uniform", 1).array(IMAGE, (2, 3, 8, 10))
    for layout in layouts(IMAGE):
        seen = viewed(value, layout)
        np.testing.assert_array_equal(seen, value)
        assert seen.flags.c_contiguous == (layout == "plain")


def test_the_same_seed_draws_the_same_and_another_seed_does_not() -> None:
    one, again = (strategies.draw(strategies.recipes(MANY), 100, 7) for _ in range(2))
    assert one == again and len(one) > 90
    assert strategies.draw(strategies.recipes(MANY), 100, 8) != one
    assert {r.dims["length"] for r in one} == {7, 12} and {r.dims["batch"] for r in one} == {1, 2, 3}
    kinds = Counter(r.inputs["image"].kind for r in one)
    assert set(kinds) == set(EXPRESSIONS["float"]) and max(kinds.values()) < 40  # of 100, and none is much preferred


def test_what_else_is_imported_changes_nothing_that_is_drawn(tmp_path: Path) -> None:
    (tmp_path / "full_of_numbers.py").write_text(f"FOUND = {list(range(300, 60000, 70))}\n")
    draw = (
        "import sys; {}\n"
        "from parity.cases import strategies\n"
        "from tests.unit.test_recipes import MANY\n"
        "for recipe in strategies.draw(strategies.recipes(MANY), 60, 7): print(recipe.json())\n"
        "found = strategies.shrink(strategies.recipes(MANY), 60, 7, lambda r: r.inputs['ids'].seed > 9000, MANY)\n"
        "print(found and found.json())\n"
    )
    place = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])}
    plain, other = (
        subprocess.run(
            [sys.executable, "-c", draw.format(first)],
            capture_output=True,
            text=True,
            check=True,
            env=place,
            cwd=tmp_path,
        ).stdout
        for first in ("", "import full_of_numbers")
    )
    assert len(plain.splitlines()) > 50 and other == plain


def test_shrinking_ends_at_the_simplest_recipe_that_fails() -> None:
    def fails(recipe: Recipe) -> bool:
        return recipe.dims["batch"] > 1 and recipe.inputs["image"].kind in ("sparse", "natural")

    found = strategies.shrink(strategies.recipes(MANY), 100, 7, fails, MANY)
    assert found is not None and found.dims["batch"] == 2 and found.dims["length"] == 7
    image = found.inputs["image"]
    assert (image.seed, image.magnitude, image.layout) == (0, 1.0, "plain") and found.inputs["ids"] == Fill("constant")
    assert strategies.shrink(strategies.recipes(MANY), 50, 7, lambda r: False, MANY) is None


def test_a_recipe_survives_json_and_refuses_what_does_not_fit() -> None:
    recipe = strategies.draw(strategies.recipes(MANY), 5, 1)[-1]
    assert Recipe.parse(recipe.json(), MANY) == recipe
    with pytest.raises(ParityError, match="other inputs or axes"):
        Recipe.parse(recipe.json(), ONE)
    with pytest.raises(ParityError, match="unknown"):
        Recipe.parse(recipe.json().replace(f'"{recipe.inputs["ids"].kind}"', '"nonsense"'), MANY)
    for text in ("", "[]", "{}", '{"inputs":{"x":{"kind":1,"os":2}},"dims":{}}'):
        with pytest.raises(ParityError, match="not a recipe"):
            Recipe.parse(text, ONE)


def stripes(rng: Any, shape: tuple[int, ...], low: float, high: float) -> Any:
    return np.broadcast_to(np.linspace(low, high, shape[-1]), shape)


def test_projects_add_kinds_of_their_own() -> None:
    name = "stripes_for_this_test"
    register_recipe(name, stripes)
    names: dict[str, Any] = {"np": np}
    exec(Fill(name).line(IMAGE, (1, 3, 8, 10)), names)
    np.testing.assert_array_equal(names["image"], Fill(name).array(IMAGE, (1, 3, 8, 10)))
    assert kinds(IMAGE)[-1] == name and name not in kinds(IDS)
    np.testing.assert_allclose(Fill(name).array(IMAGE, (1, 3, 8, 10))[0, 0, 0, [0, -1]], IMAGE.range)
    for taken, why in ((name, "taken"), ("uniform", "taken"), ("not a name", "identifier")):
        with pytest.raises(ParityError, match=why):
            register_recipe(taken, stripes)
    with pytest.raises(ParityError, match="give one that can be imported"):
        register_recipe("nameless", lambda rng, shape, low, high: np.zeros(shape))


def test_nightly_explores_and_every_other_profile_repeats_itself() -> None:
    shared = {"run": "abc", "started": 1.0}
    full, quick, night = (Drawing.of({"profile": p}, 1, shared) for p in ("full", "quick", "nightly"))
    model = _model(Path("/nowhere"))
    assert full.seed(model) == quick.seed(model) != night.seed(model)
    assert night.seed(model) != Drawing.of({"profile": "nightly"}, 1, {"run": "xyz"}).seed(model)
    assert (quick.examples(model), full.examples(model), night.examples(model)) == (10, 20, 200)
    assert Drawing.of({"profile": "quick", "examples": 3}, 1, shared).examples(model) == 3


def _model(golden: Path) -> ModelConfig:
    return ModelConfig("tiny", "m:f", ONE, (Cell("tiny", "onnx", "fp32"),), golden=golden)


def test_a_failure_is_kept_replayed_first_and_promoted(tmp_path: Path) -> None:
    model = _model(tmp_path / "golden")
    (tmp_path / "golden").mkdir()
    first, second = Recipe({"x": Fill("ramp")}, {"batch": 2}), Recipe({"x": Fill("uniform", 4)}, {"batch": 1})
    for recipe in (first, second, first):
        path = kept.save(tmp_path, "tiny", recipe)
    assert sorted(r.digest for r in kept.load(tmp_path, model)[0]) == sorted((first.digest, second.digest))
    assert kept.load(tmp_path, model, before=path.stat().st_mtime - 100)[0] == []
    path.with_name("old.json").write_text('{"inputs":{},"dims":{}}')
    assert "old.json is not replayed" in kept.load(tmp_path, model)[1][0]
    with pytest.raises(ParityError, match="no kept recipe 'zz'"):
        kept.promote(tmp_path, model, ["zz"])
    (written,) = kept.promote(tmp_path, model, [first.digest[:5]])
    with np.load(written) as archive:
        np.testing.assert_array_equal(archive["x"], first.arrays(ONE)["x"])
    assert kept.load(tmp_path, model)[0] == [second]
    kept.promote(tmp_path, model, [])
    with pytest.raises(ParityError, match="nothing to promote"):
        kept.promote(tmp_path, model, [])
    with pytest.raises(ParityError, match="no golden folder"):
        kept.promote(tmp_path, _model(tmp_path / "absent"), [])


def _target(name: str) -> Target:
    """The target's script around a session of another name; `own` has no script."""
    target = Target()
    target.session = "pkg.mod:Session"  # type: ignore[misc]
    target.script = "" if name == "own" else formats.get(name).script  # type: ignore[misc]
    return target


@pytest.mark.parametrize(("kind", "flat"), [("constant", True), ("zeros", True), ("ramp", False), ("impulse", False)])
def test_a_constant_that_was_drawn_is_as_flat_as_an_extreme(kind: str, flat: bool) -> None:
    """A normalisation over time finds nothing in either but rounding."""
    assert Recipe({"x": Fill(kind)}).flat is flat
    assert not Recipe({"x": Fill(kind), "y": Fill("uniform")}).flat


@pytest.mark.parametrize("target", ["onnx", "tflite", "coreml", "ncnn", "torchscript", "exported", "own"])
def test_a_snippet_is_at_most_ten_lines_of_python(target: str) -> None:
    notes = {
        "entry": "model.bin",
        "inputs": {
            n: {"name": f"in_{n}", "layout": "NHWC" if n == "image" else None} for n in ("image", "ids", "mask")
        },
        "outputs": {"y": {"name": "out", "layout": "NHWC"}},
    }
    recipe = strategies.draw(strategies.recipes(MANY), 9, 3)[-1]
    script = snippet.lines(_target(target), Path("/f"), notes, MANY, recipe, {}, "y", "[0, 1, 2, 3]", "1.5")
    assert len(script) <= snippet.MOST
    compile("\n".join(script), "snippet", "exec")
    text = "\n".join(script)
    assert "image.transpose(0, 2, 3, 1)" in text and "got.transpose(0, 3, 1, 2)[0, 1, 2, 3]" in text
    assert re.search(r"the float64 oracle.*1\.5", text)


def test_an_own_strategy_narrows_what_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_inputs_here.py").write_text(
        "from parity.cases.strategies import recipes\n"
        "def pairs(contract):\n    return recipes(contract).filter(lambda r: r.dims['batch'] == 2)\n"
        "def nothing(contract):\n    return 3\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    source = strategies.strategy(ONE, "own_inputs_here:pairs", tmp_path)
    assert {r.dims["batch"] for r in strategies.draw(source, 10, 1)} == {2}
    with pytest.raises(ParityError, match="gave int, not"):
        strategies.strategy(ONE, "own_inputs_here:nothing", tmp_path)
    with pytest.raises(ParityError, match="absent"):
        strategies.strategy(ONE, "own_inputs_here:absent", tmp_path)


HOSTILE = {
    "a size beyond all bounds": ('"batch": 2', '"batch": 1000000000', "larger than any declared size"),
    "a magnitude that is text": ('"magnitude": 1.0', '"magnitude": "1e9"', "no sensible number"),
    "a magnitude that is true": ('"magnitude": 1.0', '"magnitude": true', "no sensible number"),
    "a magnitude that is not finite": ('"magnitude": 1.0', '"magnitude": Infinity', "no sensible number"),
    "a seed below 0": ('"seed": 0', '"seed": -1', "no sensible number"),
    "code for a kind": ('"kind": "ramp"', '"kind": "__import__(1)"', "is unknown"),
    "a list for a kind": ('"kind": "ramp"', '"kind": []', "is unknown"),
    "a layout of its own": ('"layout": "plain"', '"layout": "exec"', "is unknown"),
    "nothing": ("{", "", "not a recipe"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_kept_file_that_somebody_wrote_is_refused_in_one_line(tmp_path: Path, what: str) -> None:
    before, after, words = HOSTILE[what]
    path = kept.save(tmp_path, "tiny", Recipe({"x": Fill("ramp")}, {"batch": 2}))
    text = path.read_text().replace(":", ": ")
    assert kept.load(tmp_path, _model(tmp_path))[1] == []
    path.write_text(text.replace(before, after, 1))
    found, (odd,) = kept.load(tmp_path, _model(tmp_path))
    assert found == [] and words in odd and "\n" not in odd


def test_promoting_never_overwrites_a_golden_file(tmp_path: Path) -> None:
    model, recipe = _model(tmp_path / "golden"), Recipe({"x": Fill("ramp")}, {"batch": 2})
    (tmp_path / "golden").mkdir()
    path = kept.save(tmp_path, "tiny", recipe)
    mine = tmp_path / "golden" / f"property_{recipe.digest}.npz"
    mine.write_bytes(b"mine")
    with pytest.raises(ParityError, match=rf"is there already; delete it, or the kept recipe {recipe.digest}"):
        kept.promote(tmp_path, model, [])
    assert mine.read_bytes() == b"mine" and path.exists()


SAVE = """
import os, sys
from pathlib import Path
from parity.store import atomic
from parity.cases import kept
from parity.cases.recipes import Fill, Recipe
if sys.argv[2] == "die":
    atomic.Path.replace = lambda self, other: os._exit(9)  # written beside its place, not renamed yet
for seed in range(40):
    kept.save(Path(sys.argv[1]), "tiny", Recipe({"x": Fill("ramp", seed)}, {"batch": 2}))
"""


def test_two_runs_that_save_at_once_and_one_that_is_killed_leave_whole_recipes(tmp_path: Path) -> None:
    def start(how: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", SAVE, str(tmp_path), how])

    assert start("die").wait() == 9
    model = _model(tmp_path)
    assert kept.load(tmp_path, model) == ([], [])  # nothing half-written is taken for a recipe, or complained of
    assert [p.wait() for p in [start("live"), start("live")]] == [0, 0]
    assert len(list(kept.folder(tmp_path, "tiny").glob("*.json"))) == 40
    found, odd = kept.load(tmp_path, model)
    assert len(found) == kept.MOST and odd == []


def test_ten_inputs_of_every_kind_are_drawn_and_printed_in_ten_lines() -> None:
    dtypes = ("float32", "float16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool", "float32")
    shapes: list[tuple[int | str, ...]] = [("batch",), ("batch", 3), (1,), ("batch", 2, 3, 4, 5)]
    many = Contract(
        tuple(InputSpec(f"in put {n}", shapes[n % 4], dtype) for n, dtype in enumerate(dtypes)), (OutputSpec("y"),)
    )
    notes = {"entry": "m", "inputs": {}, "outputs": {}}
    for recipe in strategies.draw(strategies.recipes(many), 20, 5):
        arrays = recipe.arrays(many)
        assert [a.dtype.name for a in arrays.values()] == list(dtypes)
        script = snippet.lines(_target("own"), Path("/f"), notes, many, recipe, {}, "y", ".shape", "(1,)")
        assert len(script) <= snippet.MOST
        names: dict[str, Any] = {}
        exec("\n".join(script[: script.index("from pkg.mod import Session")]), names)
        for spec in many.inputs:
            np.testing.assert_array_equal(names[variable(spec.name)], arrays[spec.name])


def test_a_snippet_points_at_the_worst_element_or_at_what_cannot_be_compared() -> None:
    want = np.array([[1.0, -7.0], [2.0, 3.0]])
    wrong = want + np.array([[0.0, 0.0], [-0.5, 0.1]])
    assert snippet.element(wrong, want) == ("[1, 0]", "2")
    assert snippet.element(np.where(want == 3, np.nan, wrong), want) == ("[1, 1]", "3")
    assert snippet.element(wrong[:1], want) == (".shape", "(2, 2)")
    assert snippet.element(wrong.astype(np.int64), want) == (".dtype", "float64")
    assert snippet.element(None, want) == ("[0, 1]", "-7")  # the file never ran
    assert snippet.element(np.array(1.0), np.array(2.0)) == ("", "2")
