"""`parity init` finds out what a model takes and gives, and asks only for what it cannot."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from parity.commands.discovery import discover  # noqa: E402
from parity.commands.messages import DiscoveryRequest  # noqa: E402
from parity.core.errors import ParityError  # noqa: E402
from parity.core.settings import ModelSpec  # noqa: E402
from parity.reference import modelling  # noqa: E402


class Plain(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(6, 2)

    def forward(self, features: Any, scale: float = 1.0) -> Any:
        return self.layer(features) * scale


class Words(torch.nn.Module):
    """As Hugging Face models are: keywords with defaults, an example of its own, outputs by name."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(50, 4)
        self.config = type("Config", (), {"vocab_size": 50})()
        self.dummy_inputs = {"input_ids": torch.tensor([[7, 6, 0], [1, 2, 3]])}

    def forward(self, input_ids: Any = None, attention_mask: Any = None) -> Any:
        hidden = self.embed(input_ids)
        return {"hidden": hidden, "pooled": hidden.mean(1)}


class Pictures(torch.nn.Module):
    """As timm models are: a description of how it was trained."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3)
        self.pretrained_cfg = {"input_size": (3, 32, 24), "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.1),
                               "interpolation": "bicubic"}  # fmt: skip

    def forward(self, x: Any) -> Any:
        return self.conv(x).mean((2, 3))


def lightning() -> Any:
    module = Pictures()
    module.pretrained_cfg, module.example_input_array = {}, torch.zeros(1, 3, 40, 40)
    return module


def pair() -> Any:
    module = Plain()
    module.forward = lambda a, b: (a + b, a - b)  # type: ignore[method-assign]
    return module


def nested() -> Any:
    module = Plain()
    module.forward = lambda features: {"logits": module.layer(features), "past": ()}  # type: ignore[method-assign]
    return module


def found(module: Any, monkeypatch: pytest.MonkeyPatch, *given: tuple[str, list[Any]], outputs: Any = ()) -> Any:
    monkeypatch.setattr(modelling, "load", lambda spec: module.eval().requires_grad_(False))
    tables = [{"name": n, "shape": s} for n, s in given]
    return asdict(discover(DiscoveryRequest(ModelSpec("", ""), tables, list(outputs))))


def test_a_first_layer_of_vectors_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(Plain(), monkeypatch) == {
        "inputs": [{"name": "features", "shape": ["batch", 6], "dtype": "float32"}],
        "outputs": ["output"],
        "preprocess": None,
    }


def test_a_model_that_gives_an_example_of_its_inputs_is_asked_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    words = found(Words(), monkeypatch)
    assert words["inputs"] == [{"name": "input_ids", "shape": ["batch", 3], "dtype": "int64", "range": [0, 49]}]
    assert words["outputs"] == ["hidden", "pooled"]
    assert found(lightning(), monkeypatch)["inputs"][0]["shape"] == ["batch", 3, 40, 40]


def test_what_a_picture_model_was_trained_with_becomes_its_preprocessing(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = found(Pictures(), monkeypatch)
    assert pictures["inputs"][0] == {"name": "x", "shape": ["batch", 3, 32, 24], "dtype": "float32"}
    assert pictures["preprocess"] == {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.1], "resize": "bicubic"}


def test_what_is_said_counts_and_is_completed(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = found(Words(), monkeypatch, ("input_ids", ["batch", "sequence"]))["inputs"][0]
    assert (ids["shape"], ids["dtype"], ids["range"]) == (["batch", "sequence"], "int64", [0, 49])
    assert found(Pictures(), monkeypatch, ("", [1, 3, 16, 16]))["inputs"][0]["name"] == "x"
    both = found(pair(), monkeypatch, ("", [2]), ("", [2]), outputs=["sum", "difference"])
    assert ([i["name"] for i in both["inputs"]], both["outputs"]) == (["a", "b"], ["sum", "difference"])
    assert found(pair(), monkeypatch, ("", [2]), ("", [2]))["outputs"] == ["output_0", "output_1"]


def test_indices_are_tried_as_integers_where_floats_do_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    module = Words()
    module.dummy_inputs = None
    module.forward = lambda input_ids, input_mask: module.embed(input_ids).mean(2) * input_mask  # type: ignore
    both = found(module, monkeypatch, ("", ["batch", 4]), ("", ["batch", 4]))["inputs"]
    assert [(i["name"], i["dtype"], i["range"]) for i in both] == [
        ("input_ids", "int64", [0, 49]), ("input_mask", "int64", [0, 1]),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("make", "given", "outputs", "words"),
    [
        (pair, (), (), "shape of the input 'a' cannot be found out: add --input a="),
        (pair, (("a", [2]),), (), "forward() also needs b: add --input b=DIMS"),
        (pair, (("a", [2]), ("b", [2])), ("y",), "returns 2 outputs, --output names 1: y"),
        (Pictures, (("x", [1, 5, 8, 8]),), (), "does not run on x [1, 5, 8, 8] float32: "),
        (nested, (("features", [1, 6]),), (), "output past is not a tensor: let the factory wrap"),
    ],
)
def test_what_cannot_be_found_out_is_one_line(
    make: Any, given: Any, outputs: Any, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ParityError) as caught:
        found(make(), monkeypatch, *given, outputs=outputs)
    assert words in str(caught.value) and "\n" not in str(caught.value)
