"""The second exporter of torch.onnx, in the child: through torch.export instead of a trace.

It follows what a trace cannot (masks that are made under vmap), and other converters read its graphs more easily.
Three things that it does silently are refused here: an axis that it fixes, an opset that it could not convert down to,
and weights in a second file where one file can hold them.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from parity.core.errors import ParityError
from parity.core.settings import ModelSpec
from parity.formats.lengths import named, variants
from parity.formats.onnx import sizes
from parity.formats.onnx.convert import FILE, names_of, notes, operators, opset_of
from parity.formats.onnx.target import NATIVE_OPSET
from parity.formats.target import Array
from parity.formats.torch.convert import by_parameter, dynamic_example
from parity.process.child import stage

_LARGEST_INSIDE = 2_000_000_000  # bytes of weights that a protobuf holds, with room for the graph


def export(
    work: str,
    options: Mapping[str, Any],
    model: ModelSpec,
    contract: Mapping[str, Any],
    example: Mapping[str, Array],
    **_: Any,
) -> dict[str, Any]:
    """Export the module to ONNX by `torch.onnx.export(dynamo=True)`, with its declared axes or at fixed sizes.

    Raises ParityError where the file has not the axes, the outputs or the opset that were asked for.
    """
    import onnx
    import torch

    from parity.reference import modelling

    module: Any = modelling.load(model)
    stage("export")
    inputs, outputs = names_of(contract)
    examples = {"": dict(example)} if options["dynamic"] else variants(contract, example)
    axes: Sequence[Mapping[int, Any]] = ()
    if options["dynamic"]:
        examples[""], axes = dynamic_example(contract, example)
    shapes = by_parameter(module.forward, axes) if any(axes) else None
    weights = sum(t.nbytes for t in (*module.parameters(), *module.buffers()))
    for suffix, values in examples.items():
        file = Path(work, named(FILE, suffix))
        arguments = tuple(torch.from_numpy(np.array(values[name])) for name in inputs)
        with modelling.plain_attention(), warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            try:
                torch.onnx.export(
                    module,
                    arguments,
                    file,
                    dynamo=True,
                    opset_version=max(options["opset"], NATIVE_OPSET),
                    input_names=[_placeholder(name) for name in inputs],
                    output_names=[_placeholder(name) for name in outputs],
                    dynamic_shapes=shapes,
                    external_data=weights > _LARGEST_INSIDE,
                    verbose=False,
                )
            except torch.onnx.OnnxExporterError as error:
                raise _cause(error) from None
        _name(file, {_placeholder(name): name for name in (*inputs, *outputs)})
        if options["opset"] < NATIVE_OPSET:
            _lower(file, options["opset"])
        onnx.checker.check_model(str(file), full_check=True)
        check(file, contract, options)
        if options["dynamic"]:
            sizes.try_others(file, module, contract, values)
    return notes(inputs, outputs, options["opset"]) | operators(Path(work))


def _cause(error: BaseException) -> BaseException:
    """The error that tells what the exporter could not do: its own begins with advice to whoever develops torch."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _placeholder(name: str) -> str:
    """A name that no value of a graph has: torch gives declared names without a look at those of its own values, and
    two values of one name are no graph."""
    return f"declared {name}"


def _name(file: Path, declared: Mapping[str, str]) -> None:
    """Give the values in `file` their declared names by their placeholders; another to a value that has such a name."""
    import onnx

    from parity.formats.onnx.rewriting import graphs

    model = onnx.load(str(file), load_external_data=False)
    parts = list(graphs(model.graph))
    taken = {name for graph in parts for node in graph.node for name in (*node.input, *node.output)}
    names = dict(declared)
    for name in taken & set(declared.values()):
        names[name] = next(other for n in itertools.count(1) if (other := f"{name}_{n}") not in taken)
    for graph in parts:
        for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
            value.name = names.get(value.name, value.name)
        for node in graph.node:
            node.input[:] = [names.get(name, name) for name in node.input]
            node.output[:] = [names.get(name, name) for name in node.output]
    onnx.save(model, str(file))


def _lower(file: Path, opset: int) -> None:
    """Convert the graph in `file` to an older opset. torch itself tries before the axes of reductions are folded into
    constants, fails on them, and keeps its own opset without an error.

    Raises ParityError where an operator has no older form.
    """
    import onnx.version_converter

    model = onnx.load(str(file))
    for node in model.graph.node:
        defaults = [a for a in node.attribute if a.name == "noop_with_empty_axes" and not a.i]
        for attribute in defaults:  # the converter would leave it, and older reductions do not have it
            node.attribute.remove(attribute)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.INT64 and tensor.raw_data:
            # The converter reads axes from the typed field alone: raw ones become "no axes", which reduces over all.
            values = onnx.numpy_helper.to_array(tensor).ravel()
            tensor.ClearField("raw_data")
            tensor.int64_data.extend(values.tolist())
    try:
        lowered = onnx.version_converter.convert_version(model, opset)
        onnx.checker.check_model(lowered, full_check=True)
    except (RuntimeError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        why = str(error).strip().splitlines()[0]
        raise ParityError(
            f"the graph of torch.onnx has no form at opset {opset} ({why:.120}): set opset = {NATIVE_OPSET}"
        ) from None
    onnx.save(lowered, str(file))


def check(file: Path, contract: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Raise ParityError where the exporter left out silently what it was asked for."""
    import onnx

    graph = onnx.load(str(file), load_external_data=False).graph
    inputs, outputs = names_of(contract)
    for side, values, names in (("inputs", graph.input, inputs), ("outputs", graph.output, outputs)):
        written = [value.name for value in values]
        if written != names:
            raise ParityError(f"torch.onnx wrote the {side} {written}, declared are {names}")
    if opset_of(file) != options["opset"]:
        raise ParityError(f"torch.onnx wrote opset {opset_of(file)} where {options['opset']} was asked for")
    if not options["dynamic"]:
        return
    for spec, value in zip(contract["inputs"], graph.input, strict=True):
        for axis, size in zip(spec["shape"], value.type.tensor_type.shape.dim, strict=True):
            if isinstance(axis, str) and not size.dim_param:
                raise ParityError(f"torch.onnx fixed the axis {axis!r} of {spec['name']!r} at {size.dim_value}")
