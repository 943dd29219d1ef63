"""Operators of a file that bend or jump, or rise steeply, beyond what the module's calls explain. Pure.

`leaky_relu(sum(x) - t, 0)` is zero on all inputs but those beyond `t`, and no comparison. Such operators are counted by
kind: a file has as many as the module's calls of the same kind, and of those that converters write out in them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from parity.core.decisions import Decision
from parity.formats.survey import Node, Survey
from parity.proof.explaining import surplus
from parity.reference.decisions import Behaviour


@dataclass(frozen=True)
class _Kind:
    """`words` are operators of any format, `calls` those of PyTorch that may be written out in them, by how many; a
    call whose name ends in `*` stands for all that begin so."""

    words: Sequence[str]
    calls: Mapping[str, int]
    holds: Callable[[Node], bool] | None = None


def _times(count: int, names: str) -> dict[str, int]:
    return dict.fromkeys(names.split(), count)


def _along(node: Node) -> bool:
    """Whether a `max` or `min` is one along an axis."""
    return node.operator.lower() not in ("max", "min") and (node.operator.endswith(".dim") or len(node.outputs) > 1)


_ANY = ("grid_sampler*", "lstm*", "mkldnn_rnn_layer*", "quantized_lstm*", "deform*", "roi_*")
"""Calls that converters write out in operators that nobody can count."""
_SOFTMAX = "_softmax _log_softmax _safe_softmax softmax log_softmax logsumexp _scaled_dot_product* scaled_dot_product*"
_NORMS = (
    "native_layer_norm native_group_norm _fused_rms_norm rms_norm native_batch_norm* _native_batch_norm* *batch_norm"
)
_MANUAL = "sqrt rsqrt var var_mean std std_mean pow"  # a normalisation that a module writes out itself
_KINDS: Sequence[_Kind] = (
    _Kind(
        ("leakyrelu", "leaky_relu", "prelu", "_prelu_kernel", "rrelu", "rrelu_with_noise",
         "rrelu_with_noise_functional"),
        _times(1, "leaky_relu prelu _prelu_kernel rrelu_with_noise rrelu_with_noise_functional maximum where neg"),
    ),
    _Kind(("elu", "selu", "celu"), _times(1, "elu selu celu where")),
    _Kind(
        ("hardsigmoid", "hard_sigmoid", "sigmoid_hard", "hardswish", "hard_swish"),
        _times(1, "hardsigmoid hardswish hardtanh clamp clamp_min clamp_max relu6"),
    ),
    _Kind(
        ("abs", "complex_abs", "absval"),
        _times(1, "abs sign sgn copysign signbit atan2 logaddexp softplus log_sigmoid_forward mish erf gelu norm "
               "linalg_vector_norm l1_loss smooth_l1_loss huber_loss pow rsqrt isinf isfinite nan_to_num remainder "
               "fmod floor_divide trunc round")
        | _times(2, "hardshrink softshrink _cdist_forward"),
    ),
    _Kind(
        ("reducemax", "reducemin", "reduce_max", "reduce_min", "amax", "amin", "aminmax", "maxpool", "globalmaxpool",
         "max_pool", "max_pool_2d", "max_pool1d", "max_pool2d", "max_pool3d", "max_pool2d_with_indices",
         "max_pool3d_with_indices", "max_pool1d_with_indices", "adaptive_max_pool1d", "adaptive_max_pool2d",
         "adaptive_max_pool3d", "reduce_log_sum_exp", "reducelogsumexp"),
        _times(1, "max min amax amin rsqrt any all topk sort argmax argmin median nanmedian kthvalue cummax cummin "
               f"{_SOFTMAX}")
        | _times(2, "aminmax max_pool* mkldnn_max_pool* adaptive_max_pool* fractional_max_pool*"),
    ),
    _Kind(("max", "min"), _times(1, "max min"), _along),
    _Kind(
        ("reducel1", "reducel2", "lpnormalization", "lppool", "globallppool", "l2_normalization", "l2_norm",
         "reduce_l1_norm", "reduce_l2_norm", "linalg_vector_norm", "norm", "_cdist_forward"),
        _times(1, f"linalg_vector_norm norm _cdist_forward _euclidean_dist cosine_similarity {_NORMS} {_MANUAL}"),
    ),
    _Kind(
        ("layernormalization", "instancenormalization", "groupnormalization", "rmsnormalization",
         "simplifiedlayernormalization", "skiplayernormalization", "meanvariancenormalization", "layer_norm",
         "instance_norm", "group_norm", "native_layer_norm", "native_group_norm", "rms_norm", "_fused_rms_norm"),
        _times(1, f"{_NORMS} {_MANUAL} linalg_vector_norm"),
    ),
    _Kind(
        ("sqrt", "rsqrt"),
        _times(1, f"linalg_vector_norm norm _cdist_forward _euclidean_dist hypot abs acos asin acosh asinh {_NORMS} "
               f"{_MANUAL}"),
    ),
    _Kind(
        ("sigmoid", "logistic", "tanh", "exp", "exp2", "expm1", "erf", "softplus", "softplus_parametric", "softsign",
         "gelu", "quickgelu", "fastgelu", "biasgelu", "silu", "swish", "mish", "logsigmoid", "log_sigmoid",
         "log_sigmoid_forward", "scaled_tanh", "glu"),
        _times(1, "sigmoid tanh exp exp2 expm1 erf gelu silu elu selu celu log_sigmoid_forward softplus glu logsumexp "
               f"pow logaddexp erfc {_SOFTMAX}")
        | _times(2, "mish sinh cosh softplus"),
    ),
)  # fmt: skip


def bends(survey: Survey, own: Behaviour) -> list[Decision]:
    """The operators of a file that bend, jump or rise steeply, of each kind that has more of them than the module's
    calls explain. None in a file with sub-graphs, and where the module calls what nobody can count."""
    if survey.parted() or _count(own, dict.fromkeys(_ANY, 1)):
        return []
    computing = survey.computing()
    strange: list[Decision] = []
    for kind in _KINDS:
        several = [node for word, node in computing if word in kind.words and (not kind.holds or kind.holds(node))]
        bent = [Decision("order", (), node.operator, node.place) for node in several]
        strange += surplus(bent, max(len(bent) - _count(own, kind.calls), 0))
    return strange


def _count(own: Behaviour, calls: Mapping[str, int]) -> int:
    """How many operators the module's calls may be written out in."""
    return sum(count * max((times for name, times in calls.items() if _is(call, name)), default=0)
               for call, count in own.calls.items())  # fmt: skip


def _is(call: str, name: str) -> bool:
    if name.startswith("*"):
        return call.endswith(name[1:])
    return call.startswith(name[:-1]) if name.endswith("*") else call == name
