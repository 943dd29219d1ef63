"""What a twin must know about ATen operators: which only move data, which are sums of products, which are several
steps in a converter's graph. One table for each; an operator in none of them is rounded as one step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_MOVES = _names(
    """
    clone copy _to_copy lift_fresh contiguous _unsafe_view _reshape_alias expand unsafe_split split_with_sizes
    unsafe_chunk max_pool1d max_pool2d_with_indices max_pool3d_with_indices adaptive_max_pool2d
    adaptive_max_pool3d index_select gather constant_pad_nd reflection_pad1d reflection_pad2d replication_pad1d
    replication_pad2d flip roll repeat stack index slice_scatter select_scatter index_put scatter masked_fill
    pixel_shuffle pixel_unshuffle channel_shuffle im2col tril triu sort topk amax max amin min
    upsample_nearest1d upsample_nearest2d upsample_nearest3d zeros_like ones_like empty_like full_like new_zeros
    new_ones new_full detach alias neg abs fill zero
    """
)
FILLS = _names("masked_fill fill full_like new_full constant_pad_nd scatter")
"""Moves that write a number of the module's own, which a file holds as it holds its constants."""
_OPAQUE = _names(
    """
    _native_multi_head_attention _transformer_encoder_layer_fwd mkldnn_rnn_layer _trilinear _cdist_forward
    _scaled_dot_product_flash_attention_for_cpu _fft_r2c _fft_c2r _fft_c2c grid_sampler_2d
    """
)
_KINDS = {
    "convolution": "conv", "mm": "contract", "addmm": "contract", "bmm": "contract", "baddbmm": "contract",
    "_softmax": "softmax", "_safe_softmax": "softmax", "native_layer_norm": "norm", "native_group_norm": "norm",
    "native_batch_norm": "norm", "clamp_min": "clamp", "clamp_max": "clamp", "hardtanh": "clamp", "relu6": "clamp",
    "_adaptive_avg_pool2d": "adaptive_avg_pool2d", "upsample_bilinear2d": "upsample", "upsample_bicubic2d": "upsample",
    "upsample_linear1d": "upsample",
}  # fmt: skip
FUSES = {
    ("conv", "batch norm"), ("conv", "relu"), ("conv", "clamp"), ("batch norm", "relu"), ("batch norm", "clamp"),
    ("transposed", "relu"), ("transposed", "clamp"), ("contract", "relu"), ("contract", "clamp"),
    ("contract", "add constant"), ("add", "relu"), ("add", "clamp"),
}  # fmt: skip
"""Kinds of neighbours that every converter or runtime makes one operator of: no rounding between them."""
FIXED_RANGES = {"sigmoid": (0.0, 1.0), "softmax": (0.0, 1.0), "tanh": (-1.0, 1.0)}


def name_of(func: Any) -> str:
    """`add` for aten.add_.Tensor."""
    name = str(func.overloadpacket.__name__)
    if name == "_convolution":  # as tracing writes it, with flags of backends behind the same arguments
        return "convolution"
    return name[:-1] if name.endswith("_") and not name.endswith("__") else name


def kind_of(name: str, args: Sequence[Any] = ()) -> str:
    """What recipes and `FUSES` call an operator; transposed convolutions and instance norms are known by arguments."""
    if name == "convolution" and args and args[6]:
        return "transposed"
    if name == "native_batch_norm" and args and not args[5]:
        return "batch norm"
    return _KINDS.get(name, name)


def is_move(func: Any, name: str) -> bool:
    """Whether every number of the result is one of the operands, or its negative: nothing is left to round."""
    return bool(func.is_view) or name in _MOVES


def splits(name: str, args: Sequence[Any], norms: bool) -> bool:
    """Whether an operator is taken apart: activations always, normalisations where `norms`."""
    if name == "native_batch_norm" and not (args[5] and args[0].shape[0] == 1):
        return False
    return name in ALWAYS_SPLIT or (norms and name in SPLIT)


def is_opaque(name: str) -> bool:
    """Whether the operator takes long sums inside, which a twin rounds as one step only."""
    return name in _OPAQUE


def written(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor | None:
    """The tensor that an in-place call or one with `out` writes its result into; None for all others."""
    if isinstance(kwargs.get("out"), Tensor):
        return kwargs["out"]  # type: ignore[no-any-return]
    name = str(func.overloadpacket.__name__)
    return args[0] if name.endswith("_") and not name.endswith("__") and isinstance(args[0], Tensor) else None


@dataclass(frozen=True)
class Contraction:
    """left times right, summed over one axis. `*_axes`: the axes that share one scale when that side is constant.

    `kind` is "conv", "conv3d", "transposed" or "contract".
    """

    kind: str
    left: Tensor
    right: Tensor
    left_axes: tuple[int, ...]
    right_axes: tuple[int, ...]
    multiply: Callable[[Tensor, Tensor], Tensor]
    summed: tuple[int, ...]  # axes of `right` that are summed over
    bias: Tensor | None = None
    bias_shape: tuple[int, ...] | None = None
    grouped: tuple[int, ...] | None = None  # shape in which right_axes counts, where not right's own

    def product(self, left: Tensor, right: Tensor, part: tuple[int, int] | None) -> Tensor:
        """The sum, or the `part`[0]-th of `part`[1] interleaved partial sums."""
        if part is None:
            return self.multiply(left, right)
        shape = tuple(n if i in self.summed else 1 for i, n in enumerate(right.shape))
        return self.multiply(left, right * _interleaved(shape, *part))

    def terms(self) -> int:
        return math.prod(self.right.shape[i] for i in self.summed)

    def scaled(self, scale: Tensor, shift: Tensor) -> Contraction:
        """The same with a following `* scale + shift` in its weight and bias; for convolutions, not transposed."""
        flat = shift.reshape(-1) if self.bias is None else self.bias * scale.reshape(-1) + shift.reshape(-1)
        weight = self.right * scale.reshape(-1, *(1 for _ in range(self.right.dim() - 1)))
        shape = (1, -1, *(1 for _ in range(self.right.dim() - 2)))
        return replace(self, right=weight, bias=flat, bias_shape=shape)

    def add_bias(self, total: Tensor, bias: Tensor) -> Tensor:
        return total + (bias.reshape(self.bias_shape) if self.bias_shape else bias)


@lru_cache(maxsize=512)
def _interleaved(shape: tuple[int, ...], part: int, parts: int) -> Tensor:
    """Which of the terms of a sum, counted over `shape`, belong to the `part`-th of `parts`."""
    return torch.arange(math.prod(shape)).reshape(shape) % parts == part


def contraction(func: Any, name: str, args: Sequence[Any]) -> Contraction | None:
    """The sum of products that this call is, or None."""
    if name == "convolution":
        x, weight, bias, stride, padding, dilation, transposed, output_padding, groups = args[:9]
        func = torch.ops.aten.convolution.default
        rest = (stride, padding, dilation, transposed, output_padding, groups)
        taps = tuple(range(2, weight.dim()))
        spread = (1, -1, *(1 for _ in taps))
        grouped = None
        axes: tuple[int, ...] = (1, *taps)
        if transposed:
            axes = (0, *taps)
            if groups > 1:
                grouped = (groups, weight.shape[0] // groups, *weight.shape[1:])
                axes = (1, *(i + 1 for i in taps))
        kind = "transposed" if transposed else "conv3d" if weight.dim() == 5 else "conv"
        return Contraction(
            kind, x, weight, tuple(range(x.dim())), axes, lambda a, b: func(a, b, None, *rest),
            (0, *taps) if transposed else (1, *taps), bias, spread, grouped,
        )  # fmt: skip
    if name in ("mm", "bmm"):
        rows, columns = (0, 1) if name == "mm" else (1, 2)
        return Contraction("contract", args[0], args[1], (columns,), (rows,), func, (rows,))
    if name in ("addmm", "baddbmm"):
        plain = torch.ops.aten.mm.default if name == "addmm" else torch.ops.aten.bmm.default
        rows, columns = (0, 1) if name == "addmm" else (1, 2)
        return Contraction("contract", args[1], args[2], (columns,), (rows,), plain, (rows,), args[0])
    return None


def plain_mean(x: Tensor, axes: Sequence[int] | None = None, keepdim: bool = False, *_: Any) -> Tensor:
    """A mean whose sum is taken in float32, one element after another. PyTorch's own adds in pairs and loses less."""
    chosen = sorted(a % x.ndim for a in axes) if axes else list(range(x.ndim))
    kept = [a for a in range(x.ndim) if a not in chosen]
    flat = x.permute(*kept, *chosen).reshape([x.shape[a] for a in kept] + [-1]).numpy()
    total = np.cumsum(flat, -1, dtype=np.float32)[..., -1]  # NumPy's cumsum is one addition after another
    found = torch.from_numpy(np.asarray(total / np.float32(flat.shape[-1])))
    return found.reshape([1 if a in chosen else n for a, n in enumerate(x.shape)]) if keepdim else found


def affine(args: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """Scale and shift, shaped to broadcast, that batch normalisation in eval mode is."""
    x, weight, bias, mean, variance, _, _, epsilon = args
    scale = torch.rsqrt(variance + epsilon)
    scale = scale if weight is None else scale * weight
    shift = -mean * scale
    shift = shift if bias is None else shift + bias
    shape = (1, -1, *(1 for _ in range(x.dim() - 2)))
    return scale.reshape(shape), shift.reshape(shape)


# As converters write them out; run under the twin again, so that each step is rounded.


def _silu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


def _mish(x: Tensor) -> Tensor:
    return x * torch.tanh(torch.nn.functional.softplus(x))


def _gelu(x: Tensor, approximate: str = "none") -> Tensor:
    if approximate == "tanh":
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))
    return x * (1 + torch.erf(x / math.sqrt(2))) * 0.5


Standardise = Callable[[Tensor, list[int], float], Tensor]


def _standardise(x: Tensor, axes: list[int], epsilon: float) -> Tensor:
    centred = x - x.mean(axes, keepdim=True)
    return centred / torch.sqrt((centred * centred).mean(axes, keepdim=True) + epsilon)


def _standardise_on_grids(x: Tensor, axes: list[int], epsilon: float) -> Tensor:
    """The same where a deviation may round to 0: by the reciprocal there, which files hold on a grid of its own.

    A token whose variance is small beside others' is divided by nothing otherwise; kernels stop at the grid's end.
    """
    centred = x - x.mean(axes, keepdim=True)
    variance = (centred * centred).mean(axes, keepdim=True) + epsilon
    deviation = torch.sqrt(variance)
    return torch.where(deviation == 0, centred * torch.rsqrt(variance), centred / deviation)


def _scaled(x: Tensor, weight: Tensor | None, bias: Tensor | None, shape: tuple[int, ...] | None) -> Tensor:
    if weight is not None:
        x = x * (weight.reshape(shape) if shape else weight)
    if bias is not None:
        x = x + (bias.reshape(shape) if shape else bias)
    return x


def _layer_norm(
    x: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, epsilon: float,
    *, standardise: Standardise = _standardise,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    axes = list(range(x.dim() - len(shape), x.dim()))
    return _scaled(standardise(x, axes, epsilon), weight, bias, None), x.new_empty(0), x.new_empty(0)


def _group_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, n: int, channels: int, size: int, groups: int,
    epsilon: float, *, standardise: Standardise = _standardise,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    y = standardise(x.reshape(n, groups, -1), [2], epsilon).reshape(x.shape)
    y = _scaled(y, weight, bias, (1, channels, *(1 for _ in range(x.dim() - 2))))
    return y, x.new_empty(0), x.new_empty(0)


def _instance_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Any, variance: Any, training: bool, momentum: float,
    epsilon: float, *, standardise: Standardise = _standardise,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """What InstanceNorm comes down to: batch normalisation of [1, batch * channels, ...] by its own statistics."""
    y = standardise(x, list(range(2, x.dim())), epsilon)
    return _scaled(y, weight, bias, (1, -1, *(1 for _ in range(x.dim() - 2)))), x.new_empty(0), x.new_empty(0)


def split(name: str, on_grids: bool) -> Callable[..., Any]:
    """The operator taken apart. `on_grids`: each step of it is put on a grid of 8 bits."""
    apart = SPLIT[name]
    return partial(apart, standardise=_standardise_on_grids) if on_grids and name in _NORMS else apart


ALWAYS_SPLIT = frozenset(("silu", "gelu", "mish"))
SPLIT: dict[str, Callable[..., Any]] = {
    "silu": _silu, "gelu": _gelu, "mish": _mish, "native_layer_norm": _layer_norm, "native_group_norm": _group_norm,
    "native_batch_norm": _instance_norm,
}  # fmt: skip
_NORMS = SPLIT.keys() - ALWAYS_SPLIT
SATURATING = ("rsqrt", "reciprocal", "log")
"""Operators whose integer kernels stop at the end of their grid where a float kernel gives infinity."""
