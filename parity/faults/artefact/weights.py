"""Faults in what a file stores: a layer of another export, a dead channel, a lost bias, numbers cut short, wrong grids.

Which layer: the first, the middle or the last by their place in the graph.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from parity.faults.base import FileFault, register_fault
from parity.formats.draft import Draft, Layer
from parity.formats.graph import Array

Edit = Callable[[Draft], bool]
Change = Callable[[Draft, Array, Layer], Array | None]
FLOATS = ("fp32", "fp16")
GRIDS = ("dynamic", "int8")


def fault(name: str, sentence: str, edit: Edit, precisions: tuple[str, ...] = (*FLOATS, *GRIDS)) -> None:
    register_fault(FileFault(f"file_{name}", sentence, edit, precisions=precisions))


# Which layer.


def pick(draft: Draft, which: str) -> Layer | None:
    layers = draft.layers()
    place = {"first": 0, "middle": len(layers) // 2, "last": len(layers) - 1}[which]
    return layers[place] if layers else None


def weight(which: str, change: Change) -> Edit:
    """Change the weight of one layer; `change` returns the new values, or None where it cannot be done."""

    def edit(draft: Draft) -> bool:
        layer = pick(draft, which)
        new = change(draft, draft.values(layer.name).copy(), layer) if layer else None
        return new is not None and layer is not None and draft.put(layer.name, new)

    return edit


def bias(which: str, change: Callable[[Array], Array]) -> Edit:
    def edit(draft: Draft) -> bool:
        layer = pick(draft, which)
        if layer is None or not layer.bias:
            return False
        return draft.put(layer.bias, change(draft.values(layer.bias).copy()))

    return edit


def whole_layer(which: str, change: Callable[[Array, int], Array]) -> Edit:
    """Change weight and bias of a layer alike, along its outputs."""

    def edit(draft: Draft) -> bool:
        layer = pick(draft, which)
        axis = layer.axis("O") if layer else None
        if layer is None or axis is None:
            return False
        changed = draft.put(layer.name, change(draft.values(layer.name), axis))
        if layer.bias:
            changed |= draft.put(layer.bias, change(draft.values(layer.bias), 0))
        return changed

    return edit


def every(change: Callable[[Array], Array]) -> Edit:
    def edit(draft: Draft) -> bool:
        changed = [draft.put(layer.name, change(draft.values(layer.name))) for layer in draft.layers()]
        return any(changed)

    return edit


# What is done to it.


def stale(part: float) -> Change:
    return lambda draft, w, _: w + part * w.std() * draft.rng.standard_normal(w.shape)


def channel(factor: float) -> Change:
    """The strongest output channel, multiplied."""

    def change(draft: Draft, w: Array, layer: Layer) -> Array | None:
        axis = layer.axis("O")
        if axis is None:
            return None
        moved = np.moveaxis(w, axis, 0)
        moved[int(np.abs(moved).reshape(len(moved), -1).sum(1).argmax())] *= factor
        return w

    return change


def largest(factor: float) -> Change:
    """The largest value, multiplied: -1 turns its sign, 1/2 is one bit of its exponent."""

    def change(draft: Draft, w: Array, layer: Layer) -> Array:
        return _largest(w, factor)

    return change


def _largest(values: Array, factor: float) -> Array:
    values.flat[int(np.abs(values).argmax())] *= factor
    return values


def swapped(values: Array, axis: int) -> Array:
    order = list(range(values.shape[axis]))
    if len(order) < 2:
        return values
    order[0], order[len(order) // 2] = order[len(order) // 2], order[0]
    return np.take(values, order, axis)


def mirrored(draft: Draft, w: Array, layer: Layer) -> Array | None:
    axis = layer.axis("W")
    axis = axis if axis is not None and axis < w.ndim and w.shape[axis] > 1 else layer.axis("I")
    return np.flip(w, axis) if axis is not None and axis < w.ndim else None


def transposed(draft: Draft, w: Array, layer: Layer) -> Array | None:
    for a, b in (("H", "W"), ("O", "I")):
        i, j = layer.axis(a), layer.axis(b)
        if i is not None and j is not None and i < w.ndim and j < w.ndim and w.shape[i] == w.shape[j] > 1:
            return np.swapaxes(w, i, j)
    return None


def inputs_reversed(draft: Draft, w: Array, layer: Layer) -> Array | None:
    axis = layer.axis("I")
    return np.flip(w, axis) if axis is not None and axis < w.ndim and w.shape[axis] > 1 else None


def rounded(values: Array, bits: int) -> Array:
    """Symmetric rounding with one step for the whole tensor."""
    step = np.abs(values).max() / (2 ** (bits - 1) - 1)
    return np.asarray(np.rint(values / step) * step) if step else values


def bfloat16(w: Array) -> Array:
    bits = w.astype(np.float32).view(np.uint32)
    return ((bits + 0x8000) & 0xFFFF0000).astype(np.uint32).view(np.float32).astype(np.float64)


def exchanged(draft: Draft) -> bool:
    layers = draft.layers()
    for i, a in enumerate(layers):
        for b in layers[i + 1 :]:
            one, two = draft.values(a.name), draft.values(b.name)
            if one.shape == two.shape:
                return draft.put(a.name, two) | draft.put(b.name, one)
    return False


def rows_of_table(draft: Draft) -> bool:
    tables = draft.layers(tables=True)
    if tables:
        return draft.put(tables[0].name, swapped(draft.values(tables[0].name), 0))
    layer = pick(draft, "last")
    axis = layer.axis("I") if layer else None
    return layer is not None and axis is not None and draft.put(layer.name, swapped(draft.values(layer.name), axis))


def operand(change: Callable[[Array], Array], least: int = 1) -> Edit:
    """The largest constant of an element-wise operator: a norm's gain, a table of positions, a scale."""

    def edit(draft: Draft) -> bool:
        found = [c for c in draft.operands() if c.stored.size >= least]
        return bool(found) and draft.put((c := max(found, key=lambda c: c.stored.size)).name, change(c.real.copy()))

    return edit


def one_lost(values: Array) -> Array:
    values.flat[0] = 0
    return values


fault("first_layer_stale", "the first layer of the file is of another training run", weight("first", stale(0.2)))
fault("middle_layer_stale", "a middle layer of the file is of another training run", weight("middle", stale(0.2)))
fault("last_layer_stale", "the last layer of the file is of another training run", weight("last", stale(0.2)))
fault("layer_slightly_stale", "a layer of the file was trained a little less", weight("middle", stale(0.05)))
fault("channel_dead", "a channel of the file is dead", weight("middle", channel(0.0)))
fault("channel_scaled", "a channel of the file is a tenth too small", weight("middle", channel(0.9)))
fault("sign_flipped", "the largest weight of the file's middle layer has the opposite sign",
      weight("middle", largest(-1.0)))  # fmt: skip
fault("last_sign_flipped", "the largest weight of the file's last layer has the opposite sign",
      weight("last", largest(-1.0)))  # fmt: skip
fault("bit_flipped", "one bit of the file is flipped: the largest weight of a layer is halved",
      weight("middle", largest(0.5)))  # fmt: skip
fault("channels_swapped", "two output channels of a layer of the file are exchanged",
      weight("middle", lambda d, w, x: swapped(w, x.axis("O") or 0)))  # fmt: skip
fault("channels_rotated", "the outputs of a layer of the file are one place off",
      whole_layer("middle", lambda v, axis: np.roll(v, 1, axis)))  # fmt: skip
fault("kernel_mirrored", "the kernel of a layer of the file is mirrored", weight("middle", mirrored))
fault("kernel_transposed", "the kernel of a layer of the file is transposed", weight("middle", transposed))
fault("first_kernel_transposed", "the first kernel of the file is transposed", weight("first", transposed))
fault("input_channels_reversed", "the file's first layer reads its input channels in the opposite order",
      weight("first", inputs_reversed))  # fmt: skip
fault("classes_swapped", "two rows of the file's last layer are exchanged", whole_layer("last", swapped))
fault("labels_rotated", "the rows of the file's last layer are one place off",
      whole_layer("last", lambda v, axis: np.roll(v, 1, axis)))  # fmt: skip
fault("outputs_scaled", "the file's last layer is five per cent too small", whole_layer("last", lambda v, _: 0.95 * v))
fault("layer_scaled", "a layer of the file is two per cent too small", weight("middle", lambda d, w, _: 0.98 * w))
fault("layers_exchanged", "two layers of one shape hold each other's weights", exchanged)
fault("table_rows_exchanged", "two rows of a table, or two inputs of the last layer, are exchanged", rows_of_table)
fault("first_bias_dropped", "the bias of the file's first layer is zero", bias("first", lambda b: b * 0))
fault("bias_dropped", "the bias of a middle layer of the file is zero", bias("middle", lambda b: b * 0))
fault("last_bias_dropped", "the bias of the file's last layer is zero", bias("last", lambda b: b * 0))
fault("bias_negated", "the bias of a layer of the file has the opposite sign", bias("middle", lambda b: -b))
fault("bias_rotated", "the bias of a layer of the file is one place off", bias("middle", lambda b: np.roll(b, 1)))
fault("one_bias_off", "the largest bias of a layer of the file is a fifth too small",
      bias("middle", lambda b: _largest(b, 0.8)))  # fmt: skip
fault("weights_clipped", "the weights of a layer of the file are clipped at 1.5 standard deviations",
      weight("middle", lambda d, w, _: np.clip(w, -1.5 * w.std(), 1.5 * w.std())))  # fmt: skip
fault("weights_pruned", "the smallest fifth of the weights of a layer of the file is zero",
      weight("middle", lambda d, w, _: np.where(np.abs(w) < np.quantile(np.abs(w), 0.2), 0.0, w)))  # fmt: skip
fault("weights_4_bits", "a layer of the file is stored in 4 bits", weight("middle", lambda d, w, _: rounded(w, 4)))
fault("weights_10_bits", "the weights of the file are rounded to 10 bits", every(lambda w: rounded(w, 10)), FLOATS)
fault("weights_bfloat16", "the weights of the file are bfloat16's", every(bfloat16), FLOATS)
fault("weights_fp16", "the weights of the file are fp16's, in a file that says fp32",
      every(lambda w: w.astype(np.float16).astype(np.float64)), ("fp32",))  # fmt: skip
fault("operand_scaled", "a gain, scale or table of positions of the file is two per cent too small",
      operand(lambda v: 0.98 * v))  # fmt: skip
fault("operand_lost_in_one_place", "one value of a gain, scale or table of positions of the file is zero",
      operand(one_lost, least=2))  # fmt: skip


# Grids of files that store integers.


def regrid(which: str, what: str, factor: float, by: int = 0) -> Edit:
    """The scale, or zero point, of a weight's first channel, a bias, or what a layer, input or output holds."""

    def edit(draft: Draft) -> bool:
        name = _gridded(draft, which, what)
        return name is not None and draft.regrid(name, factor, by)

    return edit


def _gridded(draft: Draft, which: str, what: str) -> str | None:
    graph = draft.graph
    if which in ("input", "output"):
        port = (graph.inputs if which == "input" else graph.outputs)[0]
        return port.tensor if port.tensor in graph.grids else None
    layer = pick(draft, which)
    if layer is None:
        return None
    if what == "activation":
        slot = graph.constants[layer.name].slot("weight")
        name = graph.operators[slot.operator].outputs[0] if slot else ""
        return name if name in graph.grids else None
    name = layer.name if what == "weight" else layer.bias
    return name if name and graph.constants[name].grid is not None else None


fault("weight_scale_off", "the scale of one channel of weights in the file is two per cent too large",
      regrid("middle", "weight", 1.02), GRIDS)  # fmt: skip
fault("bias_scale_off", "the scale of a bias in the file is two per cent too large",
      regrid("middle", "bias", 1.02), GRIDS)  # fmt: skip
fault("activation_range_halved", "the range of a layer's result in the file is half of what it should be",
      regrid("middle", "activation", 0.5), GRIDS)  # fmt: skip
fault("activation_scale_off", "the scale of a layer's result in the file is five per cent too large",
      regrid("middle", "activation", 1.05), GRIDS)  # fmt: skip
fault("activation_zero_point_off", "the zero point of a layer's result in the file is three steps off",
      regrid("middle", "activation", 1.0, 3), GRIDS)  # fmt: skip
fault("input_scale_off", "the file's input scale is 1/256 for 1/255", regrid("input", "", 255 / 256), GRIDS)
fault("output_scale_off", "the file's output scale is two per cent too large", regrid("output", "", 1.02), GRIDS)
