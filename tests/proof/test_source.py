"""The torch side of a proof: what is offered for the constants of a file."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from parity.proof.source import export


@pytest.mark.parametrize(("kind", "gates"), [(nn.GRU, 3), (nn.LSTM, 4), (nn.RNN, 1)])
def test_every_gate_of_a_recurrent_layer_is_a_layer(kind: type[nn.Module], gates: int) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = kind(5, 7, 2, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x)[0]

    module = Recurrent().eval()
    weights = export(module, [torch.rand(1, 4, 5)]).weights
    stacked = [w for w in weights if not w.name.endswith("]")] if gates > 1 else []
    assert [w.values.shape for w in stacked] == ([(7 * gates, 5), *[(7 * gates, 7)] * 3] if gates > 1 else [])
    weights = [w for w in weights if w not in stacked]
    assert [w.values.shape for w in weights] == [(7, 5), (7, 7)] * gates + [(7, 7)] * 2 * gates
    last = weights[-1]
    assert last.name == f"net.weight_hh_l1[{gates - 1}]"
    state = module.net.state_dict()
    np.testing.assert_array_equal(last.values, state["weight_hh_l1"][-7:].double().numpy())
    own, summed = last.bias.values, last.biases[-1].values
    np.testing.assert_array_equal(own, state["bias_hh_l1"][-7:].double().numpy())
    np.testing.assert_allclose(summed, own + state["bias_ih_l1"][-7:].double().numpy())


def test_a_recurrent_layer_without_bias_offers_zeros() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.GRU(5, 7, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x)[0]

    weights = export(Plain().eval(), [torch.rand(4, 1, 5)]).weights
    assert [w.values.shape for w in weights] == [(21, 5), (21, 7), *[(7, 5), (7, 7)] * 3]
    assert not any(w.bias.values.any() for w in weights)


def test_rows_that_are_looked_up_by_index_are_a_table() -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("angles", torch.rand(9, 4))

        def forward(self, at: torch.Tensor) -> torch.Tensor:
            return self.angles[at] * 2 + self.angles[:, 1:].sum()

    weights = export(Positions().eval(), [torch.tensor([3, 1])]).weights
    assert [(w.name, w.kind, w.values.shape) for w in weights] == [("angles", "table", (9, 4))]


def test_what_is_summed_from_parameters_alone_rounds_by_what_was_summed() -> None:
    """A query that no input reaches is folded in float32: its small elements carry the rounding of the large ones."""

    class Query(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.queries, self.q, self.gain = (
                nn.Parameter(torch.randn(5, 8)),
                nn.Linear(8, 8),
                nn.Parameter(torch.rand(8)),
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.gain + self.q(self.queries)

    terms = {term.name: term for term in export(Query().eval(), [torch.rand(5, 8)]).terms}
    summed = next(term for name, term in terms.items() if name.startswith("linear"))
    assert (summed.magnitude == np.abs(summed.values).max()).all()
    np.testing.assert_array_equal(terms["gain"].magnitude, np.abs(terms["gain"].values))


def test_the_bias_of_the_layer_before_may_be_added_behind_the_next() -> None:
    """TFLite's converter does so with two linear layers of which one reads the other (ALBERT's embedding)."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 5), nn.Dropout(), nn.Linear(5, 4)).eval()
    first, _, second = module
    layer = next(w for w in export(module, [torch.rand(2, 6)]).weights if w.name == "2.weight")
    want = (second.bias + second.weight @ first.bias).detach().double().numpy()
    assert any(np.allclose(folding.bias.values, want) for folding in layer.foldings)
