"""What the Core ML evaluator costs against torch eager, and how close it comes to the float64 oracle.

``python benchmarks/mil.py`` converts ResNet-18, a MobileNetV3-like network, EfficientNet-B0's blocks and ViT-S, and
prints for each precision, and for the neural network form, the time of one run as a multiple of eager's, with the bars
2 (fp32) and 4 (fp16).
``--accuracy`` prints signal to noise for every network of ``tests/mil/``, with the bars 110 and 55 dB.
One thread; eager and evaluator take turns and each keeps its best run, since other work on the machine only adds time.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import parity.mil
from tests.mil import zoo

BARS = {"fp32": (2.0, 110.0), "fp16": (4.0, 55.0)}


def resnet18() -> nn.Module:
    """He et al. 2015, the layout of torchvision's ``resnet18`` without its weights."""
    stages = [(64, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1)]
    stages += [(128, 256, 2), (256, 256, 1), (256, 512, 2), (512, 512, 1)]
    stem = [zoo.conv_bn(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1)]
    return nn.Sequential(*stem, *(zoo.Residual(*s) for s in stages), zoo.Head(512, 1000))


def mobile(act: type[nn.Module], width: int = 32) -> nn.Module:
    """Inverted residuals at the sizes of EfficientNet-B0 (SiLU) or MobileNetV3-large (hard swish)."""
    rows = [(width, width, 3, 1), (width, 48, 3, 2), (48, 48, 3, 1), (48, 80, 5, 2), (80, 80, 3, 1)]
    rows += [(80, 112, 5, 1), (112, 112, 5, 1), (112, 192, 5, 2), (192, 192, 5, 1), (192, 320, 3, 1)]
    body = [zoo.InvertedResidual(i, o, k, s, act) for i, o, k, s in rows]
    return nn.Sequential(zoo.conv_bn(3, width, s=2, act=act), *body, zoo.Head(320, 1000))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet18": resnet18,
    "efficientnet_like": lambda: mobile(nn.SiLU),
    "mobilenet_like": lambda: mobile(nn.Hardswish),
    "vit_s": lambda: zoo.ViT(384, 12, 16, 224, 6),
}


def best(*runs: Callable[[], object], seconds: float = 8.0) -> list[float]:
    """The least processor time of one call of each, in milliseconds, taken in turns; on one thread that is the time
    on a quiet machine."""
    for run in runs:
        run()
    times: list[list[float]] = [[] for _ in runs]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < 5:
        for run, taken in zip(runs, times, strict=True):
            start = time.process_time()
            run()
            taken.append(time.process_time() - start)
    return [1000 * min(taken) for taken in times]


def oracle(network: nn.Module, x: Tensor) -> Tensor:
    """The float64 output, the first of several."""
    with torch.no_grad():
        result = copy.deepcopy(network).double()(x.double() if x.dtype.is_floating_point else x)
    return result[0] if isinstance(result, tuple) else result


def cost(folder: Path) -> bool:
    """Print the cost table; whether every bar holds."""
    print(f"{'network':20}{'':6}{'eager ms':>10}{'mil ms':>10}{'ratio':>8}{'bar':>6}{'dB':>8}")
    held = True
    for name, build in NETWORKS.items():
        torch.manual_seed(0)
        network, x = build().eval(), torch.rand(1, 3, 224, 224)
        want = oracle(network, x).numpy()
        for kind, (bar, _) in {**BARS, "nn": BARS["fp32"]}.items():
            if kind == "nn":
                options = {"convert_to": "neuralnetwork", "compute_precision": None, "minimum_deployment_target": None}
                path = zoo.convert(network, x, folder / f"{name}.mlmodel", **options)
            else:
                path = zoo.convert(network, x, folder / f"{name}-{kind}.mlpackage", kind)
            program = parity.mil.load(path)
            inputs = {"x": x.numpy()}
            with torch.no_grad():
                eager, ms = best(lambda n=network, x=x: n(x), lambda p=program, i=inputs: p.run(i))
            decibels = zoo.decibels(next(iter(program.run(inputs).values())), want)
            held &= ms <= bar * eager
            figures = f"{eager:10.1f}{ms:10.1f}{ms / eager:8.2f}{bar:6.1f}{decibels:8.1f}"
            print(f"{name:20}{kind:6}{figures}", flush=True)
    return held


def accuracy(folder: Path) -> bool:
    """Print the accuracy table; whether every bar holds."""
    print(f"{'network':20}{'':6}{'program':>9}{'fp64':>9}{'stress':>9}  dB against the float64 oracle")
    held = True
    for name in zoo.everything():
        network, x = zoo.model(name), zoo.example(name, 1)
        want = oracle(network, x).numpy()
        for precision, (_, bar) in BARS.items():
            path = zoo.convert(network, zoo.example(name), folder / f"{name}-{precision}.mlpackage", precision)
            program = parity.mil.load(path)
            found = [
                zoo.decibels(next(iter(program.run({"x": x.numpy()}, mode).values())), want)
                for mode in ("program", "fp64", "stress")
            ]
            held &= found[0] >= bar
            print(f"{name:20}{precision:6}" + "".join(f"{d:9.1f}" for d in found), flush=True)
    return held


def main() -> int:
    """Exit code 0 if every bar holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accuracy", action="store_true", help="the accuracy table instead of the cost table")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        held = (accuracy if options.accuracy else cost)(Path(folder))
    print("every bar holds" if held else "a bar is missed")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
