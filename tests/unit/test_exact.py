"""Copies of modules that torch refuses to copy, and the reference of modules that have no float64."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from parity.core.settings import ModelSpec
from parity.divergence.reference import Reference
from parity.formats.graph import NotPossible
from parity.proof.source import export
from parity.reference import chain, oracle, twin
from parity.reference.copying import copied
from parity.reference.messages import ChainRequest, OracleRequest
from parity.reference.recipes import recipe

ROOT = str(Path(__file__).resolve().parents[2])
CASE: dict[str, Any] = {"x": np.random.default_rng(0).standard_normal((1, 3, 9)).astype(np.float32)}


def normed() -> nn.Module:
    """A convolution under the old weight_norm, whose weight is computed anew in every call."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.weight_norm(nn.Conv1d(3, 4, 3)).eval()


class Masked(nn.Module):
    """Fills with the least number of its input's type in a float32 tensor: float64's does not fit."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(9, 9)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mask = torch.full((9, 9), torch.finfo(x.dtype).min, dtype=torch.float32).triu(1)
        return (self.linear(x).transpose(1, 2) @ self.linear(x) + mask).softmax(-1)


def masked() -> nn.Module:
    return Masked().eval()


def spec(factory: str) -> ModelSpec:
    return ModelSpec(ROOT, f"tests.unit.test_exact:{factory}", {})


def test_a_copy_of_a_normed_module_computes_the_same_from_weights_of_its_own() -> None:
    module, x = normed(), torch.from_numpy(CASE["x"])
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(module)
    other = copied(module)
    assert torch.equal(other(x), module(x))
    with torch.no_grad():
        other.weight_g.mul_(2)
    assert not torch.equal(other(x), module(x))
    assert copied(module).double()(x.double()).dtype == torch.float64


def test_a_tensor_that_two_attributes_share_is_copied_once() -> None:
    module = normed()
    module.again = [module.weight]
    other = copied(module)
    assert other.again[0] is other.weight and other.weight is not module.weight


@pytest.mark.parametrize(("factory", "dtype"), [("normed", "float64"), ("masked", "float32")])
def test_every_reference_is_of_one_kind_and_says_so(factory: str, dtype: str) -> None:
    """PyTorch up to 2.8 exports no module that assigns its weight in a call, as the old weight_norm does."""
    release = tuple(int(n) for n in torch.__version__.split(".")[:2])
    found = oracle.evaluate(OracleRequest(spec(factory), [CASE, CASE], ["y"]))
    assert found.dtype == dtype and bool(found.note) is (dtype == "float32")
    steps = chain.evaluate(ChainRequest(spec(factory), [CASE], ["y"], {}, ["y"]))
    assert (steps.dtype, steps.note) == (found.dtype, found.note)
    np.testing.assert_array_equal(steps.outputs[0]["y"], found.outputs[0]["y"])
    module = globals()[factory]()
    if factory == "normed" and release < (2, 9):
        with pytest.raises(NotPossible, match=r"torch\.export cannot follow the module"):
            export(module, [torch.from_numpy(CASE["x"])])
        return
    source = export(module, [torch.from_numpy(CASE["x"])])
    assert str(source.dtype) == f"torch.{dtype}" and source.weights
    twin.run(module, [CASE], ["y"], recipe("fp16", None))
    with Reference(spec(factory), CASE, ["y"], "fp32") as walked:
        assert walked.values


class HidesRows(nn.Module):
    """Attention whose mask is cast to float32, as in transformers: float64's least number becomes -infinity there, and
    a row that is hidden as a whole NaN."""

    def forward(self, x: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        scores = (x @ x.transpose(1, 2)).masked_fill(seen[:, None] == 0, torch.finfo(x.dtype).min)
        return scores.softmax(-1, dtype=torch.float32).to(x.dtype) @ x


def hides_rows() -> nn.Module:
    return HidesRows().eval()


def test_where_float64_alone_is_undefined_float32_is_the_measure() -> None:
    x = np.random.default_rng(0).standard_normal((1, 4, 3)).astype(np.float32)
    some, none = np.array([[1, 1, 0, 0]]), np.zeros((1, 4), np.int64)
    cases = [{"x": x, "seen": some}, {"x": x, "seen": none}, {"x": x, "seen": some}]
    evaluated = oracle.evaluate(OracleRequest(spec("hides_rows"), cases, ["y"]))
    first, hidden, again = (row["y"] for row in evaluated.outputs)
    assert "numbers in float32" in evaluated.note
    np.testing.assert_array_equal(hidden, np.float64(hides_rows()(torch.from_numpy(x), torch.from_numpy(none))))
    exact = hides_rows().double()(torch.from_numpy(x).double(), torch.from_numpy(some)).numpy()
    np.testing.assert_array_equal(first, exact)
    np.testing.assert_array_equal(again, exact)


def test_what_is_undefined_in_float32_too_stays_undefined() -> None:
    x = np.full((1, 3, 9), np.nan, np.float32)
    evaluated = oracle.evaluate(OracleRequest(spec("normed"), [{"x": x}], ["y"]))
    assert np.isnan(evaluated.outputs[0]["y"]).all()
    assert not evaluated.note
