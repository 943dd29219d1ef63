"""Operators of a file that bend or jump, or rise steeply, beyond what the module's calls explain. Pure.

`leaky_relu(sum(x) - t, 0)` is zero on all inputs but those beyond `t`, and no comparison. Such operators are counted by
kind: a file has as many as the module's calls of the same kind, and of those that converters write out in them. An
operator of no kind, and not among those that add, multiply and move values (`proof/smooth.py`), is counted with its
like.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from parity.core.decisions import STEPS, Decision
from parity.formats.survey import Computed, Survey
from parity.proof.explaining import surplus
from parity.proof.smooth import PLAIN
from parity.reference.decisions import Behaviour


@dataclass(frozen=True)
class _Kind:
    """`words` are operators of any format, `calls` those of PyTorch that may be written out in them, by how many; a
    call whose name ends in `*` stands for all that begin so."""

    words: Sequence[str]
    calls: Mapping[str, int]
    holds: Callable[[Computed], bool] | None = None


_TOLD_BY_MEANING = (*STEPS, "same", "shape", "boolean", "equal", "order", "finite", "nonzero", "branch", "loop",
                    "table", "random", "training", "state", "process")  # fmt: skip


def _times(count: int, names: str) -> dict[str, int]:
    return dict.fromkeys(names.split(), count)


def _along(computed: Computed) -> bool:
    """Whether a `max` or `min` is one along an axis."""
    node = computed.node
    return node.operator.lower() not in ("max", "min") and (node.operator.endswith(".dim") or len(node.outputs) > 1)


def _between(computed: Computed) -> bool:
    """Whether a `max`, `min` or clamp is one of several tensors, none of which is a single number. `max(u, u - u)` is a
    ReLU without a number of its own."""
    return not _along(computed) and len(computed.operands) > 1


def _rooting(computed: Computed) -> bool:
    """Whether an exponent is computed, or no whole number above zero: `(u ** 2) ** 0.5` is `abs(u)`."""
    exponents = [computed.numbers.get(name, ()) for name in computed.node.inputs[1:2]]
    return not any(exponents) or any(value != int(value) or value < 0 for value in exponents[0])


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
         "reduce_l1_norm", "reduce_l2_norm", "linalg_vector_norm", "linalg_norm", "linalg_matrix_norm", "norm",
         "frobenius_norm", "_cdist_forward", "cdist", "pairwise_distance", "cosine_similarity", "dist", "hypot", "std",
         "std_mean", "renorm", "normalize"),
        _times(1, "linalg_vector_norm norm _cdist_forward _euclidean_dist cosine_similarity dist hypot renorm "
               f"{_NORMS} {_MANUAL}"),
    ),
    _Kind(
        ("layernormalization", "instancenormalization", "groupnormalization", "rmsnormalization",
         "simplifiedlayernormalization", "skiplayernormalization", "meanvariancenormalization", "layer_norm",
         "instance_norm", "group_norm", "layernorm", "groupnorm", "instancenorm", "rmsnorm", "mvn",
         "native_layer_norm", "native_group_norm", "rms_norm", "_fused_rms_norm"),
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
    _Kind(
        ("softmax", "log_softmax", "logsoftmax", "_softmax", "_log_softmax", "logsumexp", "logcumsumexp", "attention",
         "multiheadattention", "groupqueryattention", "packedattention", "packedmultiheadattention", "sdpa",
         "scaled_dot_product_attention", "_scaled_dot_product_flash_attention_for_cpu",
         "_scaled_dot_product_attention_math"),
        _times(1, f"{_SOFTMAX} logcumsumexp _native_multi_head_attention _transformer_encoder_layer_fwd"),
    ),
    _Kind(
        ("log", "log2", "log10", "log1p", "logit", "xlogy", "special_xlogy", "special_xlog1py", "special_log1p",
         "logaddexp", "logaddexp2", "reducelogsum", "reduce_log_sum"),
        _times(2, "log log2 log10 log1p logit xlogy special_xlogy special_xlog1py logaddexp logaddexp2 softplus mish "
               "log_sigmoid_forward asinh acosh atanh special_entr logcumsumexp binary_cross_entropy* pow "
               f"{_SOFTMAX}"),
    ),
    _Kind(
        ("atan", "arctan", "atan2", "arctan2", "asin", "acos", "tan", "sinh", "cosh", "asinh", "acosh", "atanh",
         "angle"),
        _times(2, "atan atan2 asin acos tan sinh cosh asinh acosh atanh angle"),
    ),
    _Kind(
        ("pow",),
        _times(1, f"reciprocal div exp exp2 linalg_vector_norm norm hypot _cdist_forward _euclidean_dist {_NORMS} "
               f"{_MANUAL}"),
        _rooting,
    ),
    _Kind(
        ("max", "min", "maximum", "minimum", "fmax", "fmin", "clip", "clamp", "clamp_min", "clamp_max"),
        _times(1, "maximum minimum fmax fmin max min clamp clamp_min clamp_max where leaky_relu prelu _prelu_kernel "
               "logaddexp cummax cummin sort topk median abs amax amin")
        | _times(8, "max_pool* adaptive_max_pool*"),
        _between,
    ),
    _Kind(
        ("mod", "fmod", "remainder", "floormod", "floor_mod", "floordiv", "floor_div", "floor_divide", "frac",
         "bitshift", "__rshift__", "__lshift__", "bitwise_left_shift", "bitwise_right_shift", "right_shift"),
        _times(2, "remainder fmod floor_divide frac div trunc floor round __rshift__ __lshift__ bitwise_left_shift "
               "bitwise_right_shift"),
    ),
    _Kind(
        ("gru", "lstm", "gru_cell", "lstm_cell", "unidirectional_sequence_lstm", "bidirectional_sequence_lstm"),
        _times(1, "sigmoid gru* mkldnn_rnn_layer*"),
    ),
    _Kind(
        ("rnn", "rnn_tanh", "rnn_relu", "rnn_tanh_cell", "rnn_relu_cell", "unidirectional_sequence_rnn",
         "bidirectional_sequence_rnn"),
        _times(1, "tanh relu rnn* mkldnn_rnn_layer*"),
    ),
)  # fmt: skip
_COUNTED = frozenset(word for kind in _KINDS for word in kind.words)


def bends(survey: Survey, own: Behaviour) -> list[Decision]:
    """The operators of a file that bend, jump or rise steeply, of each kind that has more of them than the module's
    calls explain. None in sub-graphs, and where the module calls what nobody can count."""
    if _count(own, dict.fromkeys(_ANY, 1)):
        return []
    computing = survey.computing()
    strange: list[Decision] = []
    for kind in _KINDS:
        several = [entry for entry in computing if entry.word in kind.words and (not kind.holds or kind.holds(entry))]
        strange += surplus(_decisions(several), max(len(several) - _count(own, kind.calls), 0))
    others = [entry for entry in computing if _is_other(entry)]
    if not any(_other(call) for call in own.calls):
        strange += _decisions(others)
    return strange


def _decisions(several: Sequence[Computed]) -> list[Decision]:
    return [Decision("order", (), entry.node.operator, entry.node.place) for entry in several]


def _is_other(entry: Computed) -> bool:
    """Those of TorchScript's own language (`prim::TupleIndex`) compute nothing."""
    primitive = entry.node.operator.startswith("prim::")
    return not primitive and entry.node.meaning not in _TOLD_BY_MEANING and _other(entry.word)


def _other(word: str) -> bool:
    """Whether an operator, or a call of PyTorch, is of no kind here and none of those that nothing bends."""
    return word not in PLAIN and word not in _COUNTED


def _count(own: Behaviour, calls: Mapping[str, int]) -> int:
    """How many operators the module's calls may be written out in."""
    return sum(count * max((times for name, times in calls.items() if matches(call, name)), default=0)
               for call, count in own.calls.items())  # fmt: skip


def matches(call: str, name: str) -> bool:
    """Whether a call of PyTorch is the one of this name; `*` at either end of the name stands for anything."""
    if name.startswith("*"):
        return call.endswith(name[1:])
    return call.startswith(name[:-1]) if name.endswith("*") else call == name
