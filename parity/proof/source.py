"""The torch side of a proof: what every constant of an artefact should hold, computed in float64 from the module.

The module is exported by `torch.export` in float64. Weights come with BatchNorm folded in, as every converter folds
it; `magnitude` is what they were summed from, so that float32 rounding in a converter's own folding can be told from
a change. Every expression of parameters alone is evaluated and offered as a term. Imports torch: child only.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import fx

from parity.core.settings import ModelSpec
from parity.formats.graph import Array, NotPossible, Values, relative_rms
from parity.judging.floor import differences
from parity.judging.scales import hidden_error
from parity.process.child import stage
from parity.proof import fourier, products
from parity.proof.expressions import Expressions
from parity.proof.expressions import kind as _kind
from parity.proof.messages import TRACING
from parity.proof.products import Product
from parity.reference import modelling
from parity.reference.copying import copied
from parity.reference.literals import Literals, of_graph
from parity.reference.programs import without_vmap

_ARITHMETIC = {"add", "sub", "rsub", "mul", "div", "add_", "sub_", "mul_", "div_", "pow"}
_BOUNDS = {"relu": {0.0}, "relu_": {0.0}, "relu6": {0.0, 6.0}, "hardtanh": {-1.0, 1.0}, "hardtanh_": {-1.0, 1.0},
           "clamp": set(), "clamp_": set(), "clamp_min": set(), "clamp_max": set()}  # fmt: skip
_GATES = {"gru": 3, "lstm": 4, "rnn_tanh": 1, "rnn_relu": 1}  # recurrent layers, whose gates are stacked in one tensor
STACKED = " | "  # between the names of layers that a file holds as one
_SHIFTED = {"hardsigmoid", "hardsigmoid_", "hardswish", "hardswish_"}  # by relu6(x + 3)
_NORMS = {"layer_norm", "group_norm", "instance_norm", "rms_norm"}


@dataclass(frozen=True)
class Term:
    """A value that an artefact may hold: a bias, a scale, an embedding, or an expression of parameters alone."""

    name: str
    values: Array
    magnitude: Array


@dataclass(frozen=True)
class Folding:
    """What else a converter may fold into a layer: a factor that broadcasts against the weight, and the bias that the
    layer then has."""

    factor: Array
    bias: Term


@dataclass(frozen=True)
class Weight:
    """The weight of one layer in torch's own layout: [out, in, ...]; of a transposed convolution [in, out, ...], of
    `x @ w` [..., in, out]."""

    name: str
    kind: Literal["conv", "transposed", "linear", "matmul", "table"]
    values: Array
    summed: Array | None  # what the values were summed from, in magnitude; None for that of the values themselves
    bias: Term
    biases: tuple[Term, ...]  # what else the bias may be: with a constant that follows added in
    anchor: str  # the node whose value this layer reads
    unfolded: Weight | None = None  # without the BatchNorm that follows, which some converters leave an operator
    mean: str = ""  # the running mean of that BatchNorm
    foldings: tuple[Folding, ...] = ()  # of the weight without the BatchNorm
    implied: bool = False  # no tensor of the module: what a format without its operator computes it by

    @property
    def magnitude(self) -> Array:
        """What the values were summed from, of their shape."""
        return np.abs(self.values) if self.summed is None else self.summed

    def folded(self, folding: Folding) -> Weight:
        """This layer with a folding of its plain weight applied."""
        plain = self.unfolded or self
        summed = None if plain.summed is None else plain.summed * np.abs(folding.factor)
        return replace(
            plain, values=plain.values * folding.factor, summed=summed, bias=folding.bias, biases=(), unfolded=plain,
            foldings=(),
        )  # fmt: skip


class Source:
    """One exported module, in float64."""

    def __init__(self, exported: fx.GraphModule, dtype: torch.dtype = torch.float64):
        self.module, self.dtype = exported, dtype
        self.tensors = dict(exported.named_parameters()) | dict(exported.named_buffers())
        self.known = Expressions(exported)  # holds what it computes; parameters are the module's own
        self.weights: list[Weight] = []
        self.terms: list[Term] = []
        self.bounds: set[float] = set()  # at which activations are clipped: 0 by ReLU, 6 by ReLU6, a clamp's own
        self._collect()

    def _collect(self) -> None:
        for node in self.module.graph.nodes:
            kind = _kind(node)
            if node.op == "call_function" and (product := products.products(node, self.known)) is not None:
                self._layer(product)
                if product.kind == "matmul" or product.axis == product.inner == -2:  # or an operand, to some formats
                    self._operands(node, kind)
            elif kind in _GATES:
                self._recurrent(node, _GATES[kind])
            elif kind == "embedding" and node.args[0] in self.known:
                self._table(node, node.args[1])
            elif kind == "index" and node.args[0] in self.known and (by := _looked_up(node)) is not None:
                self._table(node, by)
            elif kind == "stft":
                self._transform(node)
            elif kind == "batch_norm":
                norm = products.batch_norm(node, self.known)
                name = _parent(self._name(node.args[1] or node.args[3]))
                self._term(f"{name}.scale", norm.scale, norm.scale.abs())
                self._term(f"{name}.shift", norm.shift, norm.reach)
                self._operands(node, kind)
            elif node.op == "call_function" and node not in self.known:
                self._operands(node, kind)
        for node in self.known.computed():
            self._term(self._name(node), self.known[node], self.known.magnitude(node))
        self._stacks()

    def _stacks(self) -> None:
        """Layers that read the same value, as the one layer that converters make of query, key and value."""
        beside: dict[str, list[Weight]] = {}
        for weight in self.weights:
            if weight.kind == "linear" and weight.values.ndim == 2 and not weight.implied:
                beside.setdefault(weight.anchor, []).append(weight)
        for anchor, parts in beside.items():
            if len(parts) > 1 and not any("[" in part.name for part in parts):
                values, bias, reach = (
                    np.concatenate(each)
                    for each in zip(*((p.values, p.bias.values, p.bias.magnitude) for p in parts), strict=True)
                )
                term = Term(STACKED.join(p.bias.name for p in parts), bias, reach)
                name = STACKED.join(p.name for p in parts)
                self.weights.append(Weight(name, "linear", values, None, term, (), anchor))

    def _layer(self, product: Product) -> None:
        """Add a layer's weight and bias, with the BatchNorm that follows it folded in."""
        weight, name = self.known[product.weight], self._name(product.weight)
        none = torch.zeros(product.channels(weight), dtype=weight.dtype)
        bias = self.known[product.bias] if product.bias is not None else none
        bias_name = self._name(product.bias) if product.bias is not None else f"{_parent(name) or name}.bias"
        layer = self._weight(product, product.node, bias_name, bias, bias.abs())
        if not (product.kind == "transposed" and product.groups > 1):
            layer = self._with_foldings(product, layer, bias)
        self.weights.append(layer)
        for each in (layer, layer.unfolded):
            self.terms += [each.bias, *each.biases] if each else []

    def _weight(
        self, product: Product, last: fx.Node, bias_name: str, bias: torch.Tensor, reach: torch.Tensor,
        scale: torch.Tensor | None = None,
    ) -> Weight:  # fmt: skip
        """The layer whose result is `last`, its weight multiplied by a `scale` for each output channel."""
        weight = self.known[product.weight]
        summed = None if product.weight.op == "get_attr" else self.known.magnitude(product.weight)
        if scale is not None:
            scale = product.across(scale, weight.dim())
            weight, summed = weight * scale, None if summed is None else summed * scale.abs()
        term = Term(bias_name, _array(bias), _array(reach))
        return Weight(
            self._name(product.weight), product.kind, _array(weight), None if summed is None else _array(summed), term,
            tuple(self._shifted(last, term)), str(product.data),
        )  # fmt: skip

    def _with_foldings(self, product: Product, layer: Weight, bias: torch.Tensor) -> Weight:
        """The layer with the BatchNorm right behind it folded in, and all other foldings of it beside."""
        weight, plain = self.known[product.weight], layer
        after = list(products.behind(product, self.known))
        none = torch.zeros_like(bias).double()
        here = products.Affine(torch.ones_like(none), none, none)
        foldings: list[Folding] = []
        for number, (node, step) in enumerate(after):
            if number == 0 and _kind(node) == "batch_norm":
                reach = (bias * step.scale).abs() + step.reach
                shift = bias * step.scale + step.shift
                folded = self._weight(product, node, layer.bias.name, shift, reach, step.scale)
                layer = replace(folded, unfolded=layer, mean=self._name(node.args[3]))
        for read in (None, *products.before(product, self.known)):
            factor, gained, gained_reach = torch.ones(()), none, none
            if read is not None:
                factor, gained, gained_reach = products.folded_input(product, weight, read)
            for step in (here, *(step for _, step in after)):
                scale = product.across(step.scale, weight.dim())
                shift = (bias + gained) * step.scale + step.shift
                reach = (bias.abs() + gained_reach) * step.scale.abs() + step.reach
                foldings.append(Folding(_array(factor * scale), Term(plain.bias.name, _array(shift), _array(reach))))
        return replace(layer, foldings=tuple(foldings[1:]))

    def _recurrent(self, node: fx.Node, gates: int) -> None:
        """The layers of every gate of a recurrent layer: a converter that writes out its loop makes each a layer of its
        own, or all together one. The bias of a gate may stand with the input, with the state, or summed with either."""
        packed: Any = node.args[2]
        if not all(p in self.known for p in packed):
            return
        biased = any(self.known[p].dim() == 1 for p in packed)
        group = 4 if biased else 2
        for start in range(0, len(packed) - group + 1, group):
            tensors = [self.known[p] for p in packed[start : start + group]]
            names = [self._name(p) for p in packed[start : start + group]]
            size = tensors[1].shape[1]
            together = [("", slice(0, gates * size))] if gates > 1 else []
            for gate, part in [*together, *((f"[{g}]", slice(g * size, (g + 1) * size)) for g in range(gates))]:
                biases = [t[part] for t in tensors[2:]] or [torch.zeros_like(tensors[0][part, 0])] * 2
                both = Term(f"{names[-1]}, summed{gate}", _array(biases[0] + biases[1]),
                            _array(biases[0].abs() + biases[1].abs()))  # fmt: skip
                terms = [Term(f"{n}{gate}", _array(b), _array(b.abs())) for n, b in zip(names[2:] or names, biases,
                                                                                          strict=True)]  # fmt: skip
                for weight, name, term in zip(tensors[:2], names[:2], terms, strict=True):
                    values = _array(weight[part])
                    self.weights.append(
                        Weight(f"{name}{gate}", "linear", values, None, term, (*terms, both), str(node.args[0]))
                    )
                self.terms += [*terms, both]

    def _shifted(self, node: fx.Node, bias: Term) -> Iterator[Term]:
        """The bias of a layer with what is added to the layer's result, which converters add to the bias."""
        for user in node.users:
            if _kind(user) in _SHIFTED:
                yield Term(f"{bias.name} + 3", bias.values + 3, bias.magnitude + 3)
            sign = {"add": 1, "add_": 1, "sub": -1, "sub_": -1}.get(_kind(user), 0)
            for other in _arguments(user) if sign else ():
                if isinstance(other, (int, float)) or other in self.known:
                    more = sign * np.asarray(other if isinstance(other, (int, float)) else _array(self.known[other]))
                    label = f"{sign * other:+g}" if isinstance(other, (int, float)) else f"with {self._name(other)}"
                    yield Term(f"{bias.name} {label}", bias.values + more, bias.magnitude + np.abs(more))

    def _transform(self, node: fx.Node) -> None:
        """The products by which a file may compute a Fourier transform."""
        for table in fourier.tables(node, self.known):
            none = Term(f"{table.name} (no bias)", np.zeros(len(table.values)), np.zeros(len(table.values)))
            self.weights.append(
                Weight(table.name, "linear", table.values, table.magnitude, none, (), table.data, implied=True)
            )

    def _table(self, node: fx.Node, indices: Any) -> None:
        table = node.args[0]
        values, name = _array(self.known[table]), self._name(table)
        none = Term(f"{name} (no bias)", np.zeros(0), np.zeros(0))
        self.weights.append(Weight(name, "table", values, None, none, (), str(indices)))

    def _operands(self, node: fx.Node, kind: str) -> None:
        """What an operator on activations takes from parameters or literals."""
        for other in node.all_input_nodes:
            value = self.known.get(other)
            if isinstance(value, torch.Tensor) and value.dtype != torch.bool:  # masks are no weights
                self._term(self._name(other), value, self.known.magnitude(other))
        if kind in _BOUNDS:
            self.bounds |= _BOUNDS[kind]
            literals = [*_arguments(node), *node.kwargs.values()]
            self.bounds |= {float(v) for v in literals if isinstance(v, (int, float)) and not isinstance(v, bool)}
            for bound in self.bounds:
                self._term(f"{bound:g} of {node.name}", torch.tensor(bound), torch.tensor(abs(bound)))
        if kind in _ARITHMETIC:
            for value in node.args:
                if isinstance(value, (int, float)) and not isinstance(value, bool):
                    self._term(f"{value:g} of {node.name}", torch.tensor(float(value)), torch.tensor(abs(value)))
        if kind == "scaled_dot_product_attention":
            depth = node.args[0].meta["val"].shape[-1]  # type: ignore[union-attr]
            given = node.kwargs.get("scale")
            scale = float(given) if isinstance(given, (int, float)) else 1 / math.sqrt(depth)
            for label, value in (("scale", scale), ("root of scale", math.sqrt(scale))):
                self._term(f"{label} of {node.name}", torch.tensor(value), torch.tensor(value))
        if kind in _NORMS | {"batch_norm"}:
            eps = next((a for a in reversed(node.args) if isinstance(a, float)), 1e-5)
            self._term(f"epsilon of {node.name}", torch.tensor(eps), torch.tensor(eps))

    def _term(self, name: str, values: torch.Tensor, magnitude: torch.Tensor) -> None:
        if values.is_floating_point() and values.numel():
            self.terms.append(Term(name, _array(values), _array(magnitude)))

    def _name(self, node: Any) -> str:
        return str(node.target) if node.op == "get_attr" else str(node.name)

    def wearing(self, module: torch.nn.Module) -> Source:
        """The source of a module of the same graph with other tensors."""
        own = _tensors(module)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch's own, of its own graph
            exported = copied(self.module)
        with torch.no_grad():
            for name, tensor in _tensors(exported).items():
                if name in own:
                    tensor.copy_(own[name])
        return Source(exported, self.dtype)

    def literals(self) -> Literals:
        """The numbers in the module's own export."""
        values = {node.name: value for node, value in self.known.values.items() if isinstance(value, torch.Tensor)}
        return of_graph(self.module, values)

    def tensor(self, name: str) -> Array:
        """A parameter or buffer of the module. Raises NotPossible where the module has none of that name."""
        if name not in self.tensors:
            raise NotPossible(f"the module has no tensor {name!r}: the file's stands for an expression")
        return _array(self.tensors[name])

    def size(self, name: str) -> int:
        """How many numbers a parameter or buffer has; 0 where there is none."""
        return self.tensors[name].numel() if name in self.tensors else 0

    def run(self, case: Sequence[Array], watch: Sequence[str] = ()) -> Values:
        """float64 values of the nodes in `watch`; a layer's anchor is the value that it reads."""
        recorder = _Recorder(self.module, set(watch))
        inputs = (torch.from_numpy(np.array(v)) for v in case)
        with torch.no_grad():
            recorder.run(*_cast(inputs, self.dtype))
        return recorder.seen


def export(
    module: torch.nn.Module, example: Sequence[torch.Tensor], dtypes: Sequence[str] = ("float64", "float32")
) -> Source:
    """The source of a module at the sizes of `example`, in the first of `dtypes` that it has a form in: none are given
    where each ended the process. Raises NotPossible when torch.export cannot follow it."""
    if reason := getattr(module, "no_twin", ""):
        raise NotPossible(reason)
    if not dtypes:
        raise NotPossible("torch crashes when it traces the module")
    reasons = []
    for dtype in (getattr(torch, name) for name in dtypes):
        try:
            own, inputs = copied(module).to(dtype), _cast(example, dtype)
            with modelling.plain_attention(), torch.no_grad():
                own(*inputs)  # torch.export calls nothing, and so does not see what float64 is refused for
            stage(TRACING)  # by which the session knows whose crash it was
            exported = _exported(own, inputs)
            assert isinstance(exported, fx.GraphModule)
            return Source(exported, dtype)
        except Exception as error:  # of the user's module, in torch's tracing: anything
            reasons.append((str(error).splitlines() or [type(error).__name__])[0][:160])
        finally:
            stage("prove")
    raise NotPossible(f"torch.export cannot follow the module: {reasons[0]}")


def _cast(values: Iterable[torch.Tensor], dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    return tuple(v.to(dtype) if v.is_floating_point() else v for v in values)


def _tensors(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))


def _exported(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> torch.nn.Module:
    """The graph of a module at the sizes of `inputs`; by way of a trace where the module came as TorchScript or ONNX,
    whose sizes are computed in tensors."""
    with modelling.plain_attention(), torch.no_grad():
        try:
            return without_vmap(torch.export.export(module, inputs, strict=False)).module()
        except Exception:
            if not getattr(module, "by_trace", False):
                raise
            from torch._export.converter import TS2EPConverter

            traced = torch.jit.trace(module, inputs, check_trace=False, strict=False)
            return TS2EPConverter(traced, inputs).convert().module()


class _Recorder(fx.Interpreter):
    def __init__(self, module: fx.GraphModule, watch: set[str]):
        super().__init__(module)
        self.watch, self.seen = watch, Values()

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.name in self.watch and isinstance(value, torch.Tensor):
            self.seen[n.name] = value.double().numpy() if value.is_floating_point() else value.numpy()
        return value


_sources: dict[str, Source] = {}
_KEPT = 2  # power proves against many faulty modules, each as large as the model in float64


def source(spec: ModelSpec, case: Mapping[str, Array], dtypes: Sequence[str] = ("float64", "float32")) -> Source:
    """The exported module of a model, kept in the child: exporting takes longer than a whole proof."""
    shapes = [(name, value.shape, value.dtype.str) for name, value in case.items()]
    key = repr((spec, shapes, tuple(dtypes)))
    found = _sources.pop(key, None) or _made(modelling.load(spec), case, dtypes)
    while len(_sources) >= _KEPT:
        del _sources[next(iter(_sources))]
    _sources[key] = found
    return found


def _made(module: torch.nn.Module, case: Mapping[str, Array], dtypes: Sequence[str]) -> Source:
    """Exported; or, where a module says that it is another one with `other_tensors`, that one's graph with these."""
    right, changed = getattr(module, "other_tensors", (None, ()))
    if right is not None and _tensors((known := source(right, case, dtypes)).module).keys() >= set(changed):
        return known.wearing(module)
    return export(module, [torch.from_numpy(np.array(v)) for v in case.values()], dtypes)


def _looked_up(node: fx.Node) -> Any:
    """The indices of `table[indices]`, which looks rows up as an embedding does; None for any other indexing."""
    given = node.args[1]
    single = isinstance(given, (list, tuple)) and len(given) == 1 and isinstance(given[0], fx.Node)
    return given[0] if single else None  # type: ignore[index]


def _arguments(node: fx.Node) -> list[Any]:
    return list(node.args)


def _array(value: torch.Tensor) -> Array:
    return np.asarray(value.detach().double().numpy())


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def eager_error(
    spec: ModelSpec,
    cases: Sequence[Mapping[str, Array]],
    wants: Sequence[Mapping[str, Array]],
    outputs: Sequence[str],
) -> float:
    """Relative rms error of the module in float32, worst output: what float32 itself costs, also of the elements that
    larger ones hide. `cases` are the first that `wants` are of."""
    module = modelling.load(spec)
    worst = 0.0
    errors: dict[str, list[Array]] = {}
    for case, want in zip(cases, wants, strict=False):
        got = modelling.forward(module, {n: torch.from_numpy(np.array(v)) for n, v in case.items()}, outputs)
        for name in outputs:
            if got[name].is_floating_point():
                values = got[name].numpy()
                worst = max(worst, relative_rms(values, want[name]))
                errors.setdefault(name, []).append(differences([values], [want[name]])[0])
    return max(worst, *(hidden_error(errors[n], [w[n] for w in wants]) for n in errors), 0.0)
