"""What the factories of strangers share: torchvision beside a CPU torch, weights that react to inputs, wrappers.

An untrained network gives nearly the same output whatever its input, so that no comparison of it means much. `livened`
and `settled` are the cheap half of training: larger weights, biases that are not zero, and BatchNorm statistics that
were measured on data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[2]
SEED = 20260101

_operators: list[torch.library.Library] = []


def define_torchvision_operators() -> None:
    """Declare `torchvision::nms` and `qnms`, without which torchvision does not import here.

    Its wheel on the registry is built against a CUDA torch and its compiled operators do not load beside a CPU build.
    Nothing here calls them.
    """
    if _operators:
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _operators.append(library)


define_torchvision_operators()


def seeded(make: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """The factory with a seed of its own, so that two calls make equal weights; the result is in eval mode."""

    def factory(**options: Any) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            return make(**options).eval()

    factory.__name__, factory.__doc__, factory.__module__ = make.__name__, make.__doc__, make.__module__
    return factory


def livened(module: nn.Module, gain: float = 3.0) -> nn.Module:
    """Multiply weight matrices by `gain`, and draw biases: transformers are initialised close to zero.

    Embeddings, and what normalisation layers and weight normalisation hold, stay as they are.
    """
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            leaf = name.rpartition(".")[2]
            if leaf == "bias":
                parameter.normal_(0, 0.1)
            elif parameter.ndim > 1 and "embed" not in name and leaf not in ("weight_g", "weight_v"):
                if not parameter.any():  # heads of timm begin at zero, and nothing would reach the output
                    parameter.normal_(0, 0.1)
                parameter.mul_(gain)
    return module


def settled(module: nn.Module, *example: Tensor) -> nn.Module:
    """Draw the affine part of every BatchNorm, and measure its statistics on `example` (a batch of inputs)."""
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        if norm.affine:
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, 0, 0.2)
        norm.momentum = None  # the plain mean of all batches
        norm.reset_running_stats()
        norm.train()
    with torch.no_grad():
        for _ in range(2):
            module(*example)
    for norm in norms:
        norm.momentum = 0.1
    return module.eval()


def pictures(size: int) -> Tensor:
    """Sixteen pictures of the fixtures, normalised as ImageNet's are: float32 [16, 3, size, size]."""
    found = []
    for file in sorted((ROOT / "fixtures/golden/efficientnet_b0").glob("*.jpg")):
        image = Image.open(file).convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
        found.append(np.asarray(image, np.float32) / 255)
    pixels = torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return ((pixels - mean[:, None, None]) / std[:, None, None]).contiguous()


class Picked(nn.Module):
    """A Hugging Face module that takes tensors by position and returns tensors.

    `names` are the keyword arguments of the inputs in order, `fields` the fields of the output to return, `constants`
    further arguments of every call.
    """

    def __init__(
        self,
        module: nn.Module,
        names: tuple[str, ...],
        fields: tuple[str, ...],
        constants: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.module, self.names, self.fields = module, names, fields
        self.constants = dict(constants or {})

    def forward(self, *tensors: Tensor) -> Tensor | tuple[Tensor, ...]:
        result = self.module(**dict(zip(self.names, tensors, strict=True)), **self.constants)
        outputs = tuple(getattr(result, field) for field in self.fields)
        return outputs[0] if len(outputs) == 1 else outputs
