"""Heads that people write around a backbone: detection, segmentation, pose, super-resolution, diffusion."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from research.strangers.making import livened, pictures, seeded, settled


def block(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution, BatchNorm, SiLU."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.SiLU())


class SplitBlock(nn.Module):
    """YOLOv8's C2f: one half of the channels goes through convolutions, and all stages are concatenated."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        half = outputs // 2
        self.enter, self.leave = block(inputs, outputs, 1), block(3 * half, outputs, 1)
        self.middle = nn.Sequential(block(half, half), block(half, half))

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.enter(x).chunk(2, 1)
        return self.leave(torch.cat([a, b, b + self.middle(b)], 1))


class Yolo(nn.Module):
    """A detector as YOLOv8: two scales, distribution focal boxes, decoded; [batch, 4 + classes, anchors]."""

    def __init__(self, classes: int = 4, bins: int = 8, size: int = 96) -> None:
        super().__init__()
        self.classes, self.bins = classes, bins
        self.stem = nn.Sequential(block(3, 16, 3, 2), block(16, 24, 3, 2), SplitBlock(24, 24))
        self.p3 = nn.Sequential(block(24, 32, 3, 2), SplitBlock(32, 32))
        self.p4 = nn.Sequential(block(32, 48, 3, 2), SplitBlock(48, 48))
        self.pool_in, self.pool_out = block(48, 24, 1), block(96, 48, 1)
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.fuse = SplitBlock(80, 32)
        self.box = nn.ModuleList(nn.Sequential(block(c, 32), nn.Conv2d(32, 4 * bins, 1)) for c in (32, 48))
        self.cls = nn.ModuleList(nn.Sequential(block(c, 32), nn.Conv2d(32, classes, 1)) for c in (32, 48))
        points, strides = [], []
        for stride in (8, 16):
            count = size // stride
            y, x = torch.meshgrid(torch.arange(count) + 0.5, torch.arange(count) + 0.5, indexing="ij")
            points.append(torch.stack((x, y), 0).view(2, -1))
            strides.append(torch.full((1, count * count), float(stride)))
        self.register_buffer("bin", torch.arange(bins, dtype=torch.float32))
        self.register_buffer("points", torch.cat(points, 1)[None])
        self.register_buffer("strides", torch.cat(strides, 1)[None])

    def forward(self, image: Tensor) -> Tensor:
        p3 = self.p3(self.stem(image))
        x = self.pool_in(self.p4(p3))
        pooled = [x]
        for _ in range(3):
            pooled.append(F.max_pool2d(pooled[-1], 5, 1, 2))
        p4 = self.pool_out(torch.cat(pooled, 1))
        p3 = self.fuse(torch.cat([self.up(p4), p3], 1))
        maps = [torch.cat((self.box[i](f), self.cls[i](f)), 1) for i, f in enumerate((p3, p4))]
        flat = torch.cat([m.flatten(2) for m in maps], 2)
        box, cls = flat.split((4 * self.bins, self.classes), 1)
        n, _, anchors = box.shape
        share = box.view(n, 4, self.bins, anchors).transpose(2, 1).softmax(1)
        near, far = (share * self.bin.view(1, -1, 1, 1)).sum(1).chunk(2, 1)
        low, high = self.points - near, self.points + far
        boxes = torch.cat(((low + high) / 2, high - low), 1) * self.strides
        return torch.cat((boxes, cls.sigmoid()), 1)


def _spread(conv: nn.Conv2d, _: tuple[Tensor, ...], logits: Tensor) -> None:
    """Give every class logits of mean -1 and deviation 1.5."""
    deviation, mean = torch.std_mean(logits, (0, 2, 3))
    conv.weight.data.mul_((1.5 / deviation)[:, None, None, None])
    conv.bias.data.copy_((conv.bias - mean) * 1.5 / deviation - 1)


def _detecting(net: Yolo) -> Yolo:
    """Boxes and classes that differ from place to place, as those of a trained detector do; scores stay below 1, where
    float32 would know no order among them."""
    settled(net, pictures(96))
    for head in net.box:
        head[-1].weight.data.mul_(8)
    for head in net.cls:
        head[-1].register_forward_hook(_spread)
    with torch.no_grad():
        net(pictures(96))
    for head in net.cls:
        head[-1]._forward_hooks.clear()
    return net


@seeded
def yolo() -> nn.Module:
    return _detecting(Yolo())


class YoloWithNms(nn.Module):
    """The same with fast NMS in the graph: the best `keep` candidates, and a score of 0 where a better one covers.

    Returns boxes [batch, keep, 4] (corners), scores [batch, keep], classes [batch, keep] as int64.
    """

    def __init__(self, keep: int = 20) -> None:
        super().__init__()
        self.net, self.keep = Yolo(), keep

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        out = self.net(image).transpose(1, 2)
        scores, classes = out[..., 4:].max(-1)
        scores, order = scores.topk(self.keep, 1)
        classes = classes.gather(1, order)
        boxes = out[..., :4].gather(1, order[..., None].expand(-1, -1, 4))
        boxes = torch.cat([boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2], -1)
        low = torch.maximum(boxes[:, :, None, :2], boxes[:, None, :, :2])
        high = torch.minimum(boxes[:, :, None, 2:], boxes[:, None, :, 2:])
        common = (high - low).clamp(min=0).prod(-1)
        area = (boxes[..., 2:] - boxes[..., :2]).prod(-1)
        overlap = common / (area[:, :, None] + area[:, None] - common + 1e-6)
        same = classes[:, :, None] == classes[:, None]
        covered = (overlap * same).tril(-1).amax(-1) > 0.5
        return boxes, scores * (~covered), classes


@seeded
def yolo_nms() -> nn.Module:
    made = YoloWithNms()
    _detecting(made.net)
    return made


class CenterNet(nn.Module):
    """Objects as peaks of a heat map: transposed convolutions, three heads, peaks kept by max-pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(block(3, 16, 3, 2), block(16, 32, 3, 2), block(32, 48, 3, 2))
        self.up = nn.Sequential(
            nn.ConvTranspose2d(48, 32, 4, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        )  # fmt: skip
        self.heat, self.size, self.offset = nn.Conv2d(32, 3, 1), nn.Conv2d(32, 2, 1), nn.Conv2d(32, 2, 1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.up(self.down(image))
        heat = self.heat(x).sigmoid()
        peaks = heat * (heat == F.max_pool2d(heat, 3, 1, 1))
        return peaks, self.size(x).exp(), self.offset(x)


@seeded
def centernet() -> nn.Module:
    return settled(CenterNet(), pictures(64))


@seeded
def deeplab() -> nn.Module:
    """torchvision's DeepLabV3 on a small ResNet."""
    from torchvision.models._utils import IntermediateLayerGetter
    from torchvision.models.resnet import BasicBlock, ResNet
    from torchvision.models.segmentation.deeplabv3 import ASPP

    class DeepLab(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            net = ResNet(BasicBlock, [1, 1, 1, 1])
            self.backbone = IntermediateLayerGetter(net, return_layers={"layer2": "out"})
            self.aspp = ASPP(128, (2, 4, 6), 48)
            self.head = nn.Conv2d(48, 5, 1)

        def forward(self, image: Tensor) -> Tensor:
            x = self.head(self.aspp(self.backbone(image)["out"]))
            return F.interpolate(x, size=image.shape[-2:], mode="bilinear", align_corners=False)

    return settled(DeepLab(), pictures(64))


@seeded
def lraspp() -> nn.Module:
    """torchvision's LR-ASPP on the first part of MobileNetV3."""
    from torchvision.models import mobilenet_v3_small
    from torchvision.models._utils import IntermediateLayerGetter
    from torchvision.models.segmentation.lraspp import LRASPPHead

    class Lraspp(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            features = mobilenet_v3_small().features
            self.backbone = IntermediateLayerGetter(features, return_layers={"1": "low", "5": "high"})
            self.head = LRASPPHead(16, 40, 5, 32)

        def forward(self, image: Tensor) -> Tensor:
            x = self.head(self.backbone(image))
            return F.interpolate(x, size=image.shape[-2:], mode="bilinear", align_corners=False)

    return settled(Lraspp(), pictures(64))


class UNet(nn.Module):
    """Segmentation as in medicine: max-pooling down, transposed convolution up, skips; a mask of probabilities."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = block(3, 12), block(12, 24), block(24, 48)
        self.up_b, self.up_a = nn.ConvTranspose2d(48, 24, 2, 2), nn.ConvTranspose2d(24, 12, 2, 2)
        self.join_b, self.join_a = block(48, 24), block(24, 12)
        self.head = nn.Conv2d(12, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        a = self.a(image)
        b = self.b(F.max_pool2d(a, 2))
        c = self.c(F.max_pool2d(b, 2))
        b = self.join_b(torch.cat([self.up_b(c), b], 1))
        a = self.join_a(torch.cat([self.up_a(b), a], 1))
        return torch.sigmoid(self.head(a))


@seeded
def unet() -> nn.Module:
    return settled(UNet(), pictures(64))


class Espcn(nn.Module):
    """Super-resolution: convolutions, pixel shuffle, added to the enlarged picture, clamped to [0, 1]."""

    def __init__(self, factor: int = 3) -> None:
        super().__init__()
        self.factor = factor
        self.body = nn.Sequential(
            nn.Conv2d(3, 24, 5, padding=2), nn.PReLU(24), nn.Conv2d(24, 24, 3, padding=1), nn.PReLU(24),
            nn.Conv2d(24, 3 * factor**2, 3, padding=1), nn.PixelShuffle(factor),
        )  # fmt: skip

    def forward(self, image: Tensor) -> Tensor:
        large = F.interpolate(image, scale_factor=self.factor, mode="bicubic", align_corners=False)
        return (large + 0.3 * self.body(image)).clamp(0, 1)


@seeded
def espcn() -> nn.Module:
    return livened(Espcn(), 1.5)


class Pose(nn.Module):
    """SimpleBaseline: a ResNet, two transposed convolutions, key points as the mean of a softmax over the map."""

    def __init__(self, joints: int = 5, side: int = 16) -> None:
        super().__init__()
        self.down = nn.Sequential(block(3, 16, 3, 2), block(16, 32, 3, 2), block(32, 48, 3, 2), block(48, 48, 3, 2))
        self.up = nn.Sequential(
            nn.ConvTranspose2d(48, 32, 4, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
            nn.ConvTranspose2d(32, 32, 4, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Conv2d(32, joints, 1),
        )  # fmt: skip
        self.register_buffer("axis", torch.linspace(0, 1, side))

    def forward(self, image: Tensor) -> Tensor:
        heat = self.up(self.down(image)) * 4
        share = heat.flatten(2).softmax(-1).view_as(heat)
        x = (share.sum(2) * self.axis).sum(-1)
        y = (share.sum(3) * self.axis).sum(-1)
        return torch.stack([x, y], -1)


@seeded
def pose() -> nn.Module:
    return settled(Pose(), pictures(64))


class ResidualBlock(nn.Module):
    """GroupNorm, SiLU, convolution, twice; the time embedding is added between."""

    def __init__(self, inputs: int, outputs: int, time: int) -> None:
        super().__init__()
        self.norm_a, self.norm_b = nn.GroupNorm(4, inputs), nn.GroupNorm(4, outputs)
        self.conv_a, self.conv_b = nn.Conv2d(inputs, outputs, 3, padding=1), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.time = nn.Linear(time, outputs)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = self.conv_a(F.silu(self.norm_a(x))) + self.time(F.silu(time))[:, :, None, None]
        return self.skip(x) + self.conv_b(F.silu(self.norm_b(h)))


class CrossAttention(nn.Module):
    """Pixels attend to the text."""

    def __init__(self, width: int, context: int, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.norm = heads, nn.GroupNorm(4, width)
        self.q, self.k = nn.Linear(width, width, bias=False), nn.Linear(context, width, bias=False)
        self.v, self.out = nn.Linear(context, width, bias=False), nn.Linear(width, width)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        n, c, h, w = x.shape
        flat = self.norm(x).flatten(2).transpose(1, 2)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2)
                   for t in (self.q(flat), self.k(context), self.v(context)))  # fmt: skip
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return x + self.out(y).transpose(1, 2).reshape(n, c, h, w)


class DiffusionUNet(nn.Module):
    """Noise of a latent at a time step, given text: as Stable Diffusion's, two levels."""

    def __init__(self, width: int = 24, time: int = 48, context: int = 32) -> None:
        super().__init__()
        self.width = width
        self.time = nn.Sequential(nn.Linear(width, time), nn.SiLU(), nn.Linear(time, time))
        self.enter = nn.Conv2d(4, width, 3, padding=1)
        self.a, self.b = ResidualBlock(width, width, time), ResidualBlock(width, 2 * width, time)
        self.down = nn.Conv2d(width, width, 3, 2, 1)
        self.attend = CrossAttention(2 * width, context)
        self.c = ResidualBlock(3 * width, width, time)
        self.norm, self.leave = nn.GroupNorm(4, width), nn.Conv2d(width, 4, 3, padding=1)
        half = width // 2
        self.register_buffer("frequency", torch.exp(-math.log(10000) * torch.arange(half) / half))

    def forward(self, latent: Tensor, timestep: Tensor, context: Tensor) -> Tensor:
        angle = timestep[:, None] * self.frequency
        time = self.time(torch.cat([angle.cos(), angle.sin()], -1))
        a = self.a(self.enter(latent), time)
        b = self.attend(self.b(self.down(a), time), context)
        x = torch.cat([F.interpolate(b, scale_factor=2.0, mode="nearest"), a], 1)
        return self.leave(F.silu(self.norm(self.c(x, time))))


@seeded
def diffusion() -> nn.Module:
    return livened(DiffusionUNet(), 1.5)


class VaeDecoder(nn.Module):
    """Latent to picture: attention over pixels in the middle, nearest upsampling, GroupNorm."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.enter = nn.Conv2d(4, width, 3, padding=1)
        self.norm = nn.GroupNorm(8, width, eps=1e-6)
        self.qkv, self.proj = nn.Conv2d(width, 3 * width, 1), nn.Conv2d(width, width, 1)
        self.conv = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.norms = nn.ModuleList(nn.GroupNorm(8, width, eps=1e-6) for _ in range(2))
        self.leave = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, latent: Tensor) -> Tensor:
        x = self.enter(latent / 0.18215)
        n, c, h, w = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(n, 3, c, h * w).unbind(1)
        share = torch.softmax(torch.bmm(q.transpose(1, 2), k) * c**-0.5, -1)
        x = x + self.proj(torch.bmm(v, share.transpose(1, 2)).reshape(n, c, h, w))
        for conv, norm in zip(self.conv, self.norms, strict=True):
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            x = x + conv(F.silu(norm(x)))
        return self.leave(F.silu(x))


@seeded
def vae_decoder() -> nn.Module:
    return livened(VaeDecoder(), 1.5)


class Style(nn.Module):
    """Style transfer: reflection padding, InstanceNorm, upsampling by size."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(
            nn.ReflectionPad2d(4), nn.Conv2d(3, 16, 9), nn.InstanceNorm2d(16, affine=True), nn.ReLU(),
            nn.Conv2d(16, 32, 3, 2, 1), nn.InstanceNorm2d(32, affine=True), nn.ReLU(),
        )  # fmt: skip
        self.up = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="bilinear"), nn.ReflectionPad2d(1), nn.Conv2d(32, 16, 3),
            nn.InstanceNorm2d(16, affine=True), nn.ReLU(), nn.Conv2d(16, 3, 3, padding=1),
        )  # fmt: skip

    def forward(self, image: Tensor) -> Tensor:
        return torch.tanh(self.up(self.down(image))) * 150 + 127.5


@seeded
def style() -> nn.Module:
    return livened(Style(), 1.0)
