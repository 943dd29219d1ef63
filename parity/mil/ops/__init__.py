"""The operators of Core ML programs, one file for each family. Importing this package fills the registry.

Every function computes in the precision of its operands and returns its result unrounded: rounding to the
declared type is the machine's work. Docstrings name what an operator computes and what its documentation gets
wrong or leaves out, settled from the numeric tests that coremltools ships.
"""

from parity.mil.ops import (
    activation,
    classify,
    compression,
    constexpr_ops,
    control_flow,
    conv,
    elementwise_binary,
    elementwise_unary,
    image_resizing,
    linear,
    normalization,
    pool,
    quantization_ops,
    recurrent,
    reduction,
    scatter_gather,
    tensor_operation,
    tensor_transformation,
    transformers,
)

__all__ = [
    "activation",
    "classify",
    "compression",
    "constexpr_ops",
    "control_flow",
    "conv",
    "elementwise_binary",
    "elementwise_unary",
    "image_resizing",
    "linear",
    "normalization",
    "pool",
    "quantization_ops",
    "recurrent",
    "reduction",
    "scatter_gather",
    "tensor_operation",
    "tensor_transformation",
    "transformers",
]
