"""Programs that came as files of PyTorch's own, as modules: what a factory would have returned. In the child only.

A file has its dtypes baked in: `zeros(dtype=float32)`, `to(float32)`. A module that is to run in float64 needs those
changed with its parameters, or the oracle would be rounded to float32 in places. So `double()` and `half()` rewrite
the program as well.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from parity.core.errors import ParityError
from parity.files.torch_archives import module_of, open_program, open_script
from parity.files.torch_scripts import arguments_of, nodes

_SCALAR_TYPES = {torch.float16: 5, torch.float32: 6, torch.float64: 7}  # as TorchScript writes them


class Program(fx.GraphModule):
    """The graph of an ExportedProgram under the parameter names of the module that it was exported from."""

    def double(self) -> Program:
        return self._to(torch.float64)

    def half(self) -> Program:
        return self._to(torch.float16)

    def float(self) -> Program:
        return self._to(torch.float32)

    def _to(self, dtype: torch.dtype) -> Program:
        for node in list(self.graph.nodes):
            if node.op != "call_function":
                continue
            if node.target is torch.ops.aten._assert_tensor_metadata.default:
                self.graph.erase_node(node)
            else:
                node.args = tuple(_retyped(a, dtype) for a in node.args)
                node.kwargs = {k: _retyped(a, dtype) for k, a in node.kwargs.items()}
        self.recompile()
        return self._apply(lambda t: t.to(dtype) if t.is_floating_point() else t)  # type: ignore[no-any-return,no-untyped-call]


def _retyped(value: Any, dtype: torch.dtype) -> Any:
    return dtype if value in _SCALAR_TYPES and isinstance(value, torch.dtype) else value


def program(path: Path, inputs: Sequence[str]) -> nn.Module:
    """The program in a .pt2 file, taking its inputs in the order of `inputs`: by name where those are the file's own
    names, else by position, as a factory's module is given them. Raises ParityError."""
    module: Any = module_of(open_program(path))
    module.graph.set_codegen(_flat(module.graph))
    made = Program(module, module.graph)
    return _ordered(made, [n.target for n in made.graph.nodes if n.op == "placeholder"], inputs, path)


def _flat(graph: fx.Graph) -> Any:
    """The graph's own way with outputs, and its inputs as they are: keywords and nested containers laid out flat."""
    from torch.utils import _pytree as pytree

    codegen: Any = copy.copy(graph._codegen)
    names = [n.target for n in graph.nodes if n.op == "placeholder"]
    spec = pytree.tree_flatten((tuple(range(len(names))), {}))[1]
    codegen.pytree_info = codegen.pytree_info._replace(orig_args=list(names), in_spec=spec)
    return codegen


class Script(nn.Module):
    """A TorchScript module, executed as it is written: no fusion, no specialisation after a first run."""

    by_trace = True  # torch.export follows it only by way of a trace

    def __init__(self, path: Path):
        super().__init__()
        self.path, self.script = path, open_script(path).eval()

    def forward(self, *inputs: torch.Tensor) -> Any:
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            return self.script(*arguments_of(self.script, inputs))

    def double(self) -> Script:
        return self._to(torch.float64)

    def half(self) -> Script:
        return self._to(torch.float16)

    def float(self) -> Script:
        return self._to(torch.float32)

    def _to(self, dtype: torch.dtype) -> Script:
        """In `dtype`, the tensors as they are now. Copies of a script share its graph, so it is opened once more."""
        script = open_script(self.path).eval()
        script.load_state_dict(self.script.state_dict())
        torch._C._jit_pass_inline(script.graph)
        _retype_script(script.graph, dtype)
        self.script = script.to(dtype)
        return self


def _retype_script(graph: Any, dtype: torch.dtype) -> None:
    """Change every constant tensor of floats to `dtype`, and every float dtype that an operator is told."""
    codes = set(_SCALAR_TYPES.values())
    for node in list(nodes(graph)):
        if node.kind() == "prim::Constant" and node.hasAttribute("value") and node.kindOf("value") == "t":
            if node.t("value").is_floating_point():
                node.t_("value", node.t("value").to(dtype))
        elif node.schema() != "(no schema)":
            names = [argument.name for argument in torch._C.parse_schema(node.schema()).arguments]
            # An operator that takes any number of arguments, such as aten::format, has fewer names than inputs.
            for index, (name, value) in enumerate(zip(names, list(node.inputs()), strict=False)):
                if name == "dtype" and value.type().str() == "int" and value.toIValue() in codes:
                    fresh = graph.insertConstant(_SCALAR_TYPES[dtype])
                    fresh.node().moveBefore(node)
                    node.replaceInput(index, fresh)


def script(path: Path, inputs: Sequence[str]) -> nn.Module:
    """The module in a TorchScript file, taking its inputs in the order of `inputs`, like `program`."""
    made = Script(path)
    forward: Any = made.script.forward
    names = [a.name for a in forward.schema.arguments[1:]]
    return _ordered(made, names, inputs, path)


class _Reordered(nn.Module):
    def __init__(self, module: nn.Module, order: Sequence[int]):
        super().__init__()
        self.module, self.order, self.by_trace = module, tuple(order), getattr(module, "by_trace", False)

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.module(*(inputs[i] for i in self.order))


def _ordered(module: nn.Module, own: Sequence[str], inputs: Sequence[str], path: Path) -> nn.Module:
    if len(own) != len(inputs):
        raise ParityError(f"{path.name} takes {len(own)} inputs ({', '.join(own)}), declared are {len(inputs)}: "
                          f"{', '.join(inputs)}")  # fmt: skip
    if set(own) == set(inputs) and list(own) != list(inputs):
        return _Reordered(module, [list(inputs).index(name) for name in own])
    return module
