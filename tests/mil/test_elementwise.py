"""Element-by-element operators against torch: unary, binary, activations, casts."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.mil.build import evaluate

X = np.linspace(-3, 3, 41, dtype=np.float32).reshape(1, 41)
POSITIVE = np.linspace(0.05, 3, 41, dtype=np.float32)
UNIT = np.linspace(-0.95, 0.95, 41, dtype=np.float32)

UNARY = {
    "abs": (torch.abs, X),
    "acos": (torch.acos, UNIT),
    "asin": (torch.asin, UNIT),
    "atan": (torch.atan, X),
    "atanh": (torch.atanh, UNIT),
    "ceil": (torch.ceil, X),
    "cos": (torch.cos, X),
    "cosh": (torch.cosh, X),
    "erf": (torch.erf, X),
    "exp": (torch.exp, X),
    "exp2": (torch.exp2, X),
    "floor": (torch.floor, X),
    "round": (torch.round, np.float32([-2.5, -1.5, 0.5, 1.5, 2.4])),
    "sign": (torch.sign, X),
    "sin": (torch.sin, X),
    "sinh": (torch.sinh, X),
    "sqrt": (torch.sqrt, POSITIVE),
    "square": (torch.square, X),
    "tan": (torch.tan, UNIT),
    "tanh": (torch.tanh, X),
    "relu": (torch.relu, X),
    "relu6": (F.relu6, X * 4),
    "sigmoid": (torch.sigmoid, X),
    "silu": (F.silu, X),
    "softplus": (F.softplus, X),
    "softsign": (F.softsign, X),
}


@pytest.mark.parametrize("name", UNARY)
def test_unary_operator_equals_torch(name):
    function, x = UNARY[name]
    np.testing.assert_allclose(evaluate(name, x=x), function(torch.from_numpy(x)), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "constants", "want"),
    [
        ("clip", {"alpha": -1.0, "beta": 2.0}, lambda x: x.clamp(-1, 2)),
        ("threshold", {"alpha": 0.5}, lambda x: x.clamp_min(0.5)),
        ("thresholded_relu", {"alpha": 0.5}, lambda x: F.threshold(x, 0.5 - 1e-6, 0.0)),
        ("clamped_relu", {"alpha": 0.1, "beta": 1.5}, lambda x: F.leaky_relu(x, 0.1).clamp_max(1.5)),
        ("elu", {"alpha": 0.7}, lambda x: F.elu(x, 0.7)),
        ("leaky_relu", {"alpha": 0.2}, lambda x: F.leaky_relu(x, 0.2)),
        ("linear_activation", {"alpha": 2.0, "beta": 1.0}, lambda x: 2 * x + 1),
        ("scaled_tanh", {"alpha": 2.0, "beta": 0.5}, lambda x: 2 * torch.tanh(0.5 * x)),
        ("sigmoid_hard", {"alpha": 1 / 6, "beta": 0.5}, F.hardsigmoid),
        ("gelu", {"mode": "EXACT"}, F.gelu),
        ("gelu", {"mode": "TANH_APPROXIMATION"}, lambda x: F.gelu(x, approximate="tanh")),
        ("gelu", {"mode": "SIGMOID_APPROXIMATION"}, lambda x: x * torch.sigmoid(1.702 * x)),
        ("softmax", {"axis": 1}, lambda x: torch.softmax(x, 1)),
        ("softmax", {}, lambda x: torch.softmax(x, -1)),
    ],
)
def test_operator_with_constants_equals_torch(name, constants, want):
    got = evaluate(name, x=X, **{k: np.float32(v) if isinstance(v, float) else v for k, v in constants.items()})
    np.testing.assert_allclose(got, want(torch.from_numpy(X)), rtol=1e-5, atol=1e-6)


def test_per_channel_activations():
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    alpha, beta = [0.1, 0.2, 0.3], [1.0, 2.0, 0.5]
    got = evaluate("prelu", x=x, alpha=np.float32(alpha).tolist())
    np.testing.assert_allclose(got, F.prelu(torch.from_numpy(x), torch.tensor(alpha)), rtol=1e-6)
    got = evaluate("softplus_parametric", x=x, alpha=alpha, beta=beta)
    a, b = (torch.tensor(v)[:, None, None] for v in (alpha, beta))
    np.testing.assert_allclose(got, a * F.softplus(b * torch.from_numpy(x)), rtol=1e-5, atol=1e-6)


def test_epsilons_are_added_as_the_file_says():
    x = np.float32([1.0, 2.0, 0.5])
    np.testing.assert_allclose(evaluate("inverse", x=x, epsilon=np.float32(0.5)), 1 / (x + 0.5), rtol=1e-6)
    np.testing.assert_allclose(evaluate("inverse", x=x), 1 / (x + 1e-4), rtol=1e-6)
    np.testing.assert_allclose(evaluate("rsqrt", x=x, epsilon=np.float32(0.5)), (x + 0.5) ** -0.5, rtol=1e-6)
    np.testing.assert_allclose(evaluate("log", x=x, epsilon=np.float32(0.5)), np.log(x + 0.5), rtol=1e-6)


Y = np.float32([[1.5], [-2.0], [0.5]])

BINARY = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "real_div": torch.div,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "mod": torch.remainder,
    "floor_div": lambda x, y: torch.div(x, y, rounding_mode="floor"),
}
COMPARISONS = {
    "equal": torch.eq,
    "not_equal": torch.ne,
    "greater": torch.gt,
    "greater_equal": torch.ge,
    "less": torch.lt,
    "less_equal": torch.le,
}


@pytest.mark.parametrize("name", BINARY)
def test_binary_operator_broadcasts_as_torch(name):
    want = BINARY[name](torch.from_numpy(X), torch.from_numpy(Y))
    np.testing.assert_allclose(evaluate(name, x=X, y=Y), want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", COMPARISONS)
def test_comparison(name):
    x, y = np.float32([1, 2, 3, np.nan]), np.float32([1, 3, 2, np.nan])
    want = COMPARISONS[name](torch.from_numpy(x), torch.from_numpy(y))
    np.testing.assert_array_equal(evaluate(name, "bool", x=x, y=y), want)


@pytest.mark.parametrize("name", ["logical_and", "logical_or", "logical_xor"])
def test_logic(name):
    x, y = np.array([True, True, False, False]), np.array([True, False, True, False])
    np.testing.assert_array_equal(evaluate(name, "bool", x=x, y=y), getattr(np, name)(x, y))
    np.testing.assert_array_equal(evaluate("logical_not", "bool", x=x), ~x)


def test_power():
    got = evaluate("pow", x=POSITIVE, y=np.float32(2.5))
    np.testing.assert_allclose(got, POSITIVE**2.5, rtol=1e-5)


def test_integer_division_rounds_down():
    x, y = np.int32([7, -7, 7]), np.int32([2, 2, -2])
    np.testing.assert_array_equal(evaluate("real_div", "int32", x=x, y=y), [3, -4, -4])
    np.testing.assert_array_equal(evaluate("floor_div", "int32", x=x, y=y), [3, -4, -4])


def test_cast_truncates_and_select_chooses():
    x = np.float32([-1.9, -0.5, 0.0, 1.9])
    np.testing.assert_array_equal(evaluate("cast", "int32", x=x, dtype="int32"), [-1, 0, 0, 1])
    np.testing.assert_array_equal(evaluate("cast", "bool", x=x, dtype="bool"), [True, True, False, True])
    got = evaluate("select", cond=np.array([True, False, True, False]), a=x, b=-x)
    np.testing.assert_array_equal(got, np.float32([-1.9, 0.5, 0.0, -1.9]))


def test_program_mode_rounds_to_the_declared_type():
    x = np.float32([1 / 3])
    exact = evaluate("square", "fp16", x=x, run_mode="fp32")
    rounded = evaluate("square", "fp16", x=x, run_mode="program")
    assert exact[0] == np.float32(1 / 3) * np.float32(1 / 3)
    assert rounded[0] == np.float16(exact[0]) != exact[0]
