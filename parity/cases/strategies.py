"""What hypothesis draws: recipes that fit a contract. Imported only by what draws; collection never needs it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import HypothesisException

from parity.cases.own import function as own_function
from parity.cases.recipes import ELEMENTS, MAGNITUDES, Fill, Recipe, family, kinds, layouts
from parity.core.contract import Contract, InputSpec
from parity.core.errors import ParityError

Strategy = Any  # a hypothesis SearchStrategy of Recipe
SEEDS = 1 << 16


def fills(spec: InputSpec) -> Strategy:
    """A fill for one input: kind, seed, magnitude (of real numbers) and memory layout."""
    magnitudes = tuple(MAGNITUDES) if family(spec) == "float" else (1.0,)
    return st.builds(
        Fill,
        kind=st.sampled_from(kinds(spec)),
        seed=st.integers(0, SEEDS - 1),
        magnitude=st.sampled_from(magnitudes),
        layout=st.sampled_from(layouts(spec)),
    )


def recipes(contract: Contract) -> Strategy:
    """Recipes for a model: every dynamic axis at one of its declared sizes, every input filled on its own."""
    sizes = {name: st.sampled_from(sorted(known)) for name, known in contract.sizes().items()}
    inputs = {spec.name: fills(spec) for spec in contract.inputs}  # made once: making them costs more than drawing

    @st.composite
    def recipe(draw: Any) -> Recipe:
        dims = {name: draw(size) for name, size in sizes.items()}
        if any(math.prod(s.sized(dims)) > ELEMENTS for s in contract.inputs):
            dims = {name: min(known) for name, known in contract.sizes().items()}
        return Recipe({name: draw(fill) for name, fill in inputs.items()}, dims)

    return recipe()


def strategy(contract: Contract, own: str | None, root: Path) -> Strategy:
    """The strategy of a model: the default, or what the project's own `module:function` makes of the contract.

        def decoding(contract):
            return recipes(contract).filter(lambda r: r.dims["batch"] > 1)

    Raises ParityError when it cannot be imported or gives no strategy.
    """
    if own is None:
        return recipes(contract)
    made = own_function(own, "properties.strategy", root)(contract)
    if not isinstance(made, st.SearchStrategy):
        raise ParityError(
            f"properties.strategy {own!r} gave {type(made).__name__}, not a hypothesis strategy of Recipe"
        )
    return made


def _quiet(count: int, *phases: Phase) -> settings:
    """No deadline, no database of its own, nothing printed: a busy machine changes nothing."""
    return settings(
        max_examples=count, deadline=None, database=None, derandomize=False, phases=phases, print_blob=False,
        suppress_health_check=list(HealthCheck), verbosity=Verbosity.quiet, report_multiple_bugs=False,
    )  # fmt: skip


@contextlib.contextmanager
def _nothing_found() -> Iterator[None]:
    """Without the numbers that hypothesis (6.131 on) finds in the modules that happen to be imported and draws now and
    then: with them, another order of imports draws other recipes from the same seed. Nothing is changed where a version
    does not have them, or calls it otherwise."""
    try:
        from hypothesis.internal.conjecture.providers import HypothesisProvider
    except ImportError:
        HypothesisProvider = None
    if not hasattr(HypothesisProvider, "_maybe_draw_constant"):
        yield
        return
    with mock.patch.object(HypothesisProvider, "_maybe_draw_constant", _nothing):
        yield


def _nothing(*_: Any, **__: Any) -> None:
    """In place of a mock, which would keep every call."""


def draw(source: Strategy, count: int, number: int) -> list[Recipe]:
    """`count` recipes at most, without repetition: the same ones for the same seed `number`, whatever is imported."""
    found: dict[str, Recipe] = {}

    @_quiet(count, Phase.generate)
    @seed(number)
    @given(source)
    def collect(recipe: Recipe) -> None:
        found.setdefault(recipe.digest, recipe)

    with _nothing_found():
        collect()
    return list(found.values())


class _Fails(Exception):
    pass


def shrink(
    source: Strategy, count: int, number: int, fails: Callable[[Recipe], bool], contract: Contract
) -> Recipe | None:
    """The simplest recipe that `fails`, as hypothesis finds it from the draws of `draw` with the same arguments."""
    best: list[Recipe] = []

    @_quiet(count, Phase.generate, Phase.shrink)
    @seed(number)
    @given(source)
    def attempt(recipe: Recipe) -> None:
        if fails(recipe):
            if not best or recipe.weight(contract) < best[0].weight(contract):
                best[:] = [recipe]
            raise _Fails

    with _nothing_found(), contextlib.suppress(_Fails, HypothesisException):
        attempt()
    return best[0] if best else None
