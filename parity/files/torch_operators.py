"""Which of PyTorch's operators compute, and nothing else. In a child process only.

What an operator can reach is in the types that it takes. Tensors, numbers and lists of them name no file, no host and
no process; text can. So an operator is pure where no argument is text, and an operator that takes text is pure where
its name is on a list of those for which the text is a mode, an equation or a message. Nothing else is allowed:
a new operator that takes text (the next `save`) is refused until somebody has read what it does.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import torch

_NAMESPACES = frozenset(
    ["aten", "prims", "quantized", "quantized_decomposed", "_quantized", "torchvision", "mkldnn", "prepacked"]
)
_CUSTOM_CLASSES = re.compile(r"__torch__\.torch\.classes\.(quantized|rnn|xnnpack)\.\w+")
_WORD = re.compile(r"[\w.]+")

# What the types of a pure operator's arguments are made of. `t` and its like stand for any type.
_VALUE_WORDS = """
    Tensor int float bool complex number Scalar SymInt SymFloat SymBool ScalarType Layout Device
    MemoryFormat QScheme Generator NoneType AnyEnumType Optional List Dict Tuple Union t t1 t2
    tVal
"""
_VALUES = frozenset(_VALUE_WORDS.split())

# The text is a mode, a norm, an equation, a message that is shown, or the value itself. `wait` takes
# the future of a fork, whose own operators are judged where they stand.
_TEXT_WORDS = """
    Delete Float Int __contains__ __getitem__ __interpolate __upsample _assert_async
    _assert_scalar _convolution_mode _functional_assert_async _functional_assert_scalar
    _linalg_check_errors _linalg_eigh _linalg_svd _mixed_dtypes_linear _print
    _segment_reduce_backward _set_item _sparse_mm _sparse_mm_reduce_impl add any capitalize
    center clear conv1d conv2d conv3d copy count dequantize device dict div div_ divide divide_
    einsum endswith eq expandtabs fft_fft fft_fft2 fft_fftn fft_hfft fft_hfft2 fft_hfftn
    fft_ifft fft_ifft2 fft_ifftn fft_ihfft fft_ihfft2 fft_ihfftn fft_irfft fft_irfft2 fft_irfftn
    fft_rfft fft_rfft2 fft_rfftn find format ge gelu gelu_ gelu_backward get get_autocast_dtype
    gt index index_reduce index_reduce_ isalnum isalpha isdecimal isdigit isidentifier islower
    isnumeric isprintable isspace istitle isupper items join keys le len linalg_cond linalg_eigh
    linalg_eigvalsh linalg_lstsq linalg_matrix_norm linalg_norm linalg_qr linalg_svd
    linalg_svdvals list ljust lower lstrip lt meshgrid nanquantile ne ord pad pad_sequence
    partition percentFormat pop popitem quantile remove replace rfind rindex rjust rpartition
    rsplit rstrip scatter scatter_ scatter_reduce scatter_reduce_ searchsorted segment_reduce
    setdefault slice sort sorted split splitlines startswith stft strip swapcase title update
    upper values wait warn zfill conv2d_unpack_sizes _convolution_pointwise
    _convolution_pointwise_ _convolution_transpose_pointwise _linear_pointwise
"""
_TAKES_TEXT = frozenset(_TEXT_WORDS.split())

# TorchScript's own: control flow, containers, attributes, casts. No Python, no remote call, and none
# of the operators that its compiler makes for itself.
_PRIM_WORDS = """
    Constant If Loop GetAttr SetAttr HasAttr CallFunction CallMethod CreateObject Uninitialized
    ListConstruct ListUnpack TupleConstruct TupleUnpack TupleIndex TupleSlice DictConstruct
    ConstantChunk RaiseException Print Enter Exit Closure fork isinstance unchecked_cast
    unchecked_unwrap_optional NumToTensor ImplicitTensorToNum StringIndex ModuleContainerIndex
    EnumName EnumValue abs data device dtype grad id index is_cpu is_cuda is_meta is_mkldnn
    is_mps is_nested is_quantized is_sparse is_sparse_csr is_vulkan is_xla is_xpu itemsize
    layout max min name nbytes rangelist requires_grad shape tolist type
"""
_PRIM = frozenset(_PRIM_WORDS.split())


def refused_operator(namespace: str, name: str, schema: Any) -> str:
    """Why `namespace::name` may do more than compute; empty where it may not.

    `schema` is torch's `FunctionSchema`, or None for what TorchScript registers without one.
    """
    label = f"operator {namespace}::{name}"[:80]
    if namespace == "prim":
        return "" if name in _PRIM else f"{label} is not on the list of pure ones"
    if namespace not in _NAMESPACES or schema is None:
        return f"{label} is not on the list of pure ones"
    for argument in schema.arguments:
        if not _only_values(str(argument.type)) and name not in _TAKES_TEXT:
            return f"{label} takes {argument.type} {argument.name}"
    return ""


def refused_type(annotation: str) -> str:
    """Why values of this TorchScript type may do more than compute: objects of C++ classes have methods of their own.
    Empty where they may not."""
    for word in _WORD.findall(annotation):
        if word.startswith("__torch__.torch.classes.") and not _CUSTOM_CLASSES.fullmatch(word):
            return f"object of the C++ class {word.removeprefix('__torch__.torch.classes.'):.60}"
    return ""


def _only_values(annotation: str) -> bool:
    words = _WORD.findall(annotation)
    return all(w in _VALUES or w.isdigit() or _CUSTOM_CLASSES.fullmatch(w) for w in words)


@cache
def schema_of(text: str) -> Any:
    """The schema that a TorchScript node states as text; None where it has none."""
    try:
        return torch._C.parse_schema(text)
    except RuntimeError:  # "(no schema)"
        return None
