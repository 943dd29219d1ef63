"""Classifiers of torchvision and timm, as these packages make them, small where they have a size to choose."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from research.strangers.making import livened, pictures, seeded, settled

CLASSES = 10


@seeded
def resnet() -> nn.Module:
    from torchvision.models.resnet import BasicBlock, ResNet

    return settled(ResNet(BasicBlock, [1, 1, 1, 1], num_classes=CLASSES), pictures(64))


@seeded
def resnext() -> nn.Module:
    from torchvision.models.resnet import Bottleneck, ResNet

    made = ResNet(Bottleneck, [1, 1, 1, 1], num_classes=CLASSES, groups=8, width_per_group=4)
    return settled(made, pictures(64))


@seeded
def mobilenet_v2() -> nn.Module:
    from torchvision.models import mobilenet_v2

    return settled(mobilenet_v2(num_classes=CLASSES, width_mult=0.35), pictures(96))


@seeded
def mobilenet_v3() -> nn.Module:
    from torchvision.models import mobilenet_v3_small

    made = settled(mobilenet_v3_small(num_classes=CLASSES), pictures(96))
    livened(made.classifier, 10.0)
    return made


@seeded
def efficientnet_v2() -> nn.Module:
    from torchvision.models.efficientnet import EfficientNet, FusedMBConvConfig, MBConvConfig

    blocks = [
        FusedMBConvConfig(1, 3, 1, 16, 16, 1),
        FusedMBConvConfig(4, 3, 2, 16, 24, 2),
        MBConvConfig(4, 3, 2, 24, 40, 2),
        MBConvConfig(6, 3, 1, 40, 48, 1),
    ]
    norm = partial(nn.BatchNorm2d, eps=1e-3)
    made = EfficientNet(blocks, 0.2, num_classes=CLASSES, last_channel=128, norm_layer=norm)
    return settled(made, pictures(64))


@seeded
def shufflenet() -> nn.Module:
    from torchvision.models import shufflenet_v2_x0_5

    return settled(shufflenet_v2_x0_5(num_classes=CLASSES), pictures(64))


@seeded
def squeezenet() -> nn.Module:
    from torchvision.models import squeezenet1_1

    return livened(squeezenet1_1(num_classes=CLASSES), 1.0)


@seeded
def densenet() -> nn.Module:
    from torchvision.models import DenseNet

    return settled(DenseNet(12, (2, 3, 2), 24, num_classes=CLASSES), pictures(64))


@seeded
def convnext() -> nn.Module:
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    blocks = [CNBlockConfig(24, 48, 2), CNBlockConfig(48, 96, 2), CNBlockConfig(96, None, 1)]
    return livened(ConvNeXt(blocks, layer_scale=0.3, num_classes=CLASSES))


@seeded
def swin() -> nn.Module:
    from torchvision.models.swin_transformer import SwinTransformer

    return livened(SwinTransformer([4, 4], 24, [2, 2], [2, 4], [4, 4], num_classes=CLASSES))


@seeded
def swin_v2() -> nn.Module:
    from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformer, SwinTransformerBlockV2

    return livened(
        SwinTransformer(
            [4, 4], 24, [2, 2], [2, 4], [4, 4],
            num_classes=CLASSES, block=SwinTransformerBlockV2, downsample_layer=PatchMergingV2,
        )
    )  # fmt: skip


@seeded
def maxvit() -> nn.Module:
    from torchvision.models.maxvit import MaxVit

    made = MaxVit((64, 64), 16, 4, [16, 32], [1, 1], 8, 0.0, num_classes=CLASSES)
    return settled(livened(made, 1.5), pictures(64))


@seeded
def vit() -> nn.Module:
    import timm

    return livened(
        timm.create_model(
            "vit_tiny_patch16_224",
            img_size=64, embed_dim=64, depth=3, num_heads=4, num_classes=CLASSES,
        )
    )  # fmt: skip


@seeded
def deit_distilled() -> nn.Module:
    import timm

    return livened(
        timm.create_model(
            "deit_tiny_distilled_patch16_224",
            img_size=64, embed_dim=64, depth=2, num_heads=4, num_classes=CLASSES,
        )
    )  # fmt: skip


@seeded
def mixer() -> nn.Module:
    from timm.models.mlp_mixer import MlpMixer

    return livened(MlpMixer(num_classes=CLASSES, img_size=64, patch_size=8, num_blocks=2, embed_dim=48))


def _of_timm(name: str, size: int = 64, **options: Any) -> nn.Module:
    import timm

    return settled(timm.create_model(name, num_classes=CLASSES, **options), pictures(size))


@seeded
def mobilenet_v4() -> nn.Module:
    return _of_timm("mobilenetv4_conv_small_035")


@seeded
def lcnet() -> nn.Module:
    return _of_timm("lcnet_050")


@seeded
def ghostnet() -> nn.Module:
    return _of_timm("ghostnet_050")


@seeded
def mobilevit() -> nn.Module:
    return _of_timm("mobilevit_xxs")


@seeded
def mobilevit_v2() -> nn.Module:
    return _of_timm("mobilevitv2_050")


@seeded
def edgenext() -> nn.Module:
    return livened(_of_timm("edgenext_xx_small"), 1.5)


@seeded
def nfnet() -> nn.Module:
    """Weight standardisation: every convolution's weights are computed when it runs."""
    return livened(_of_timm("test_nfnet"), 1.0)


@seeded
def repvgg() -> nn.Module:
    """Three branches a block, not fused, as it is trained."""
    return _of_timm("test_byobnet")


@seeded
def regnet() -> nn.Module:
    return _of_timm("regnety_002")
