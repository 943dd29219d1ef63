"""Models of transformers with small configurations and random weights, wrapped as `docs/models.md` says."""

from __future__ import annotations

from typing import Any

from torch import nn

from research.strangers.making import Picked, livened, seeded

WORDS = 200  # of every vocabulary
SMALL: dict[str, Any] = {
    "vocab_size": WORDS,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
}
PICTURE: dict[str, Any] = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "image_size": 64,
    "patch_size": 8,
}
TOKENS = ("input_ids", "attention_mask")


@seeded
def bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(**SMALL, max_position_embeddings=64, num_labels=4, attn_implementation="eager")
    return Picked(livened(BertForSequenceClassification(config)), TOKENS, ("logits",))


@seeded
def distilbert() -> nn.Module:
    from transformers import DistilBertConfig, DistilBertForTokenClassification

    config = DistilBertConfig(
        vocab_size=WORDS, dim=48, n_layers=2, n_heads=4, hidden_dim=96, max_position_embeddings=64, num_labels=5,
        attn_implementation="eager",
    )  # fmt: skip
    return Picked(livened(DistilBertForTokenClassification(config)), TOKENS, ("logits",))


@seeded
def albert() -> nn.Module:
    from transformers import AlbertConfig, AlbertForSequenceClassification

    config = AlbertConfig(
        **SMALL, embedding_size=24, max_position_embeddings=64, num_labels=4, attn_implementation="eager"
    )
    return Picked(livened(AlbertForSequenceClassification(config)), TOKENS, ("logits",))


@seeded
def minilm() -> nn.Module:
    """A sentence encoder: the mean over the tokens that the mask keeps, normalised."""
    import torch
    from transformers import BertConfig, BertModel

    class Sentence(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            hidden = self.module(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            kept = attention_mask[..., None].to(hidden.dtype)
            mean = (hidden * kept).sum(1) / kept.sum(1).clamp(min=1e-9)
            return nn.functional.normalize(mean, dim=1)

    config = BertConfig(**SMALL, max_position_embeddings=64)
    return Sentence(livened(BertModel(config, add_pooling_layer=False)))


@seeded
def modernbert() -> nn.Module:
    from transformers import ModernBertConfig, ModernBertForMaskedLM

    config = ModernBertConfig(
        **SMALL, max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1,
        sep_token_id=2, attn_implementation="eager", reference_compile=False, local_attention=8,
        global_attn_every_n_layers=2,
    )  # fmt: skip
    return Picked(livened(ModernBertForMaskedLM(config)), TOKENS, ("logits",))


@seeded
def t5() -> nn.Module:
    """Encoder and decoder in one forward."""
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=WORDS, d_model=48, d_kv=12, d_ff=96, num_layers=2, num_heads=4, decoder_start_token_id=0,
        feed_forward_proj="gated-gelu",
    )  # fmt: skip
    names = ("input_ids", "decoder_input_ids")
    return Picked(livened(T5ForConditionalGeneration(config), 1.0), names, ("logits",), {"use_cache": False})


def _language_model(module: nn.Module) -> nn.Module:
    return Picked(livened(module), ("input_ids",), ("logits",), {"use_cache": False})


@seeded
def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=WORDS, n_positions=64, n_embd=48, n_layer=2, n_head=4, attn_implementation="eager")
    return _language_model(GPT2LMHeadModel(config))


@seeded
def llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    return _language_model(LlamaForCausalLM(LlamaConfig(**SMALL, num_key_value_heads=2, max_position_embeddings=64)))


@seeded
def qwen2() -> nn.Module:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    return _language_model(Qwen2ForCausalLM(Qwen2Config(**SMALL, num_key_value_heads=2, max_position_embeddings=64)))


@seeded
def qwen3() -> nn.Module:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        **SMALL, num_key_value_heads=2, head_dim=12, max_position_embeddings=64, attn_implementation="eager"
    )
    return _language_model(Qwen3ForCausalLM(config))


@seeded
def gemma2() -> nn.Module:
    """Soft caps on attention and logits, and sliding windows."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = Gemma2Config(
        **SMALL, num_key_value_heads=2, head_dim=12, max_position_embeddings=64, sliding_window=8,
        query_pre_attn_scalar=12, attn_implementation="eager",
    )  # fmt: skip
    return _language_model(Gemma2ForCausalLM(config))


@seeded
def clip() -> nn.Module:
    from transformers import CLIPConfig, CLIPModel

    text = {**SMALL, "max_position_embeddings": 24, "projection_dim": 32, "eos_token_id": 199, "bos_token_id": 0}
    config = CLIPConfig(text_config=text, vision_config={**PICTURE, "projection_dim": 32}, projection_dim=32)
    names = ("pixel_values", "input_ids")
    return Picked(livened(CLIPModel(config)), names, ("logits_per_image", "image_embeds"))


@seeded
def siglip() -> nn.Module:
    from transformers import SiglipConfig, SiglipModel

    text = {**SMALL, "max_position_embeddings": 16, "projection_size": 48}
    config = SiglipConfig(text_config=text, vision_config=PICTURE, attn_implementation="eager")
    names = ("pixel_values", "input_ids")
    return Picked(livened(SiglipModel(config)), names, ("logits_per_image", "text_embeds"))


@seeded
def sam() -> nn.Module:
    """Picture and points to masks: window attention with relative positions, two-way transformer, hyper-networks."""
    from transformers import SamConfig, SamModel
    from transformers.models.sam.configuration_sam import (
        SamMaskDecoderConfig,
        SamPromptEncoderConfig,
        SamVisionConfig,
    )

    vision = SamVisionConfig(
        hidden_size=48, output_channels=32, num_hidden_layers=2, num_attention_heads=4, image_size=64, patch_size=8,
        window_size=4, global_attn_indexes=[1], mlp_dim=96, num_pos_feats=16, attn_implementation="eager",
    )  # fmt: skip
    prompt = SamPromptEncoderConfig(hidden_size=32, image_size=64, patch_size=8, mask_input_channels=8)
    decoder = SamMaskDecoderConfig(
        hidden_size=32, mlp_dim=64, num_hidden_layers=2, num_attention_heads=4, iou_head_hidden_dim=32
    )
    config = SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)
    names, fields = ("pixel_values", "input_points"), ("iou_scores", "pred_masks")
    return Picked(livened(SamModel(config), 2.0), names, fields)


@seeded
def segformer() -> nn.Module:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    config = SegformerConfig(
        num_encoder_blocks=2, depths=[1, 1], sr_ratios=[4, 2], hidden_sizes=[16, 32], patch_sizes=[7, 3],
        strides=[4, 2], num_attention_heads=[1, 2], mlp_ratios=[2, 2], decoder_hidden_size=32, num_labels=5,
    )  # fmt: skip
    return Picked(livened(SegformerForSemanticSegmentation(config), 2.0), ("pixel_values",), ("logits",))


@seeded
def yolos() -> nn.Module:
    """A ViT with detection tokens: classes and boxes."""
    from transformers import YolosConfig, YolosForObjectDetection

    config = YolosConfig(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96, image_size=[64, 64],
        patch_size=8, num_detection_tokens=10, num_labels=4, use_mid_position_embeddings=False,
        attn_implementation="eager",
    )  # fmt: skip
    return Picked(livened(YolosForObjectDetection(config)), ("pixel_values",), ("logits", "pred_boxes"))


@seeded
def dinov2() -> nn.Module:
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=4, mlp_ratio=2, image_size=64, patch_size=8,
        layerscale_value=0.5, attn_implementation="eager",
    )  # fmt: skip
    return Picked(livened(Dinov2Model(config)), ("pixel_values",), ("last_hidden_state", "pooler_output"))


@seeded
def vitpose() -> nn.Module:
    from transformers import VitPoseBackboneConfig, VitPoseConfig, VitPoseForPoseEstimation

    backbone = VitPoseBackboneConfig(
        image_size=[64, 48], patch_size=[8, 8], hidden_size=48, num_hidden_layers=2, num_attention_heads=4,
        mlp_ratio=2, out_indices=[2],
    )  # fmt: skip
    config = VitPoseConfig(backbone_config=backbone, num_labels=5, use_simple_decoder=True)
    return Picked(livened(VitPoseForPoseEstimation(config), 2.0), ("pixel_values",), ("heatmaps",))


@seeded
def depth_anything() -> nn.Module:
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config

    backbone = Dinov2Config(
        hidden_size=48, num_hidden_layers=4, num_attention_heads=4, mlp_ratio=2, image_size=56, patch_size=14,
        out_features=["stage1", "stage2", "stage3", "stage4"], reshape_hidden_states=False, apply_layernorm=True,
        layerscale_value=0.5,
    )  # fmt: skip
    config = DepthAnythingConfig(
        backbone_config=backbone, patch_size=14, reassemble_hidden_size=48, neck_hidden_sizes=[8, 16, 24, 24],
        fusion_hidden_size=16, head_hidden_size=8,
    )  # fmt: skip
    return Picked(livened(DepthAnythingForDepthEstimation(config), 1.5), ("pixel_values",), ("predicted_depth",))


@seeded
def swin2sr() -> nn.Module:
    """Super-resolution with shifted windows."""
    from transformers import Swin2SRConfig, Swin2SRForImageSuperResolution

    config = Swin2SRConfig(
        image_size=32, embed_dim=24, depths=[2], num_heads=[2], window_size=4, mlp_ratio=2, upscale=2,
        upsampler="pixelshuffledirect",
    )  # fmt: skip
    return Picked(livened(Swin2SRForImageSuperResolution(config), 1.5), ("pixel_values",), ("reconstruction",))


@seeded
def whisper() -> nn.Module:
    """Encoder and one decoder pass."""
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    config = WhisperConfig(
        vocab_size=WORDS, d_model=48, encoder_layers=2, decoder_layers=1, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=96, decoder_ffn_dim=96, num_mel_bins=40, max_source_positions=50,
        max_target_positions=32, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
        attn_implementation="eager",
    )  # fmt: skip
    names = ("input_features", "decoder_input_ids")
    return Picked(livened(WhisperForConditionalGeneration(config)), names, ("logits",), {"use_cache": False})


SPEECH: dict[str, Any] = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "conv_dim": (24, 24, 24),
    "conv_stride": (5, 4, 4),
    "conv_kernel": (10, 8, 4),
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
    "num_feat_extract_layers": 3,
    "vocab_size": 32,
}


@seeded
def wav2vec2() -> nn.Module:
    """GroupNorm over time, weight_norm in the positional convolution, letters per frame."""
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    config = Wav2Vec2Config(**SPEECH, attn_implementation="eager")
    return Picked(livened(Wav2Vec2ForCTC(config), 2.0), ("input_values",), ("logits",))


@seeded
def hubert() -> nn.Module:
    from transformers import HubertConfig, HubertModel

    config = HubertConfig(**SPEECH, feat_extract_norm="layer", do_stable_layer_norm=True, attn_implementation="eager")
    return Picked(livened(HubertModel(config), 2.0), ("input_values",), ("last_hidden_state",))


@seeded
def spectrogram_transformer() -> nn.Module:
    """AST: a spectrogram as a picture."""
    from transformers import ASTConfig, ASTForAudioClassification

    config = ASTConfig(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96, patch_size=8,
        frequency_stride=8, time_stride=8, max_length=64, num_mel_bins=40, num_labels=6,
        attn_implementation="eager",
    )  # fmt: skip
    return Picked(livened(ASTForAudioClassification(config)), ("input_values",), ("logits",))


@seeded
def speecht5_vocoder() -> nn.Module:
    from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

    config = SpeechT5HifiGanConfig(
        model_in_dim=20, upsample_initial_channel=32, upsample_rates=[4, 2], upsample_kernel_sizes=[8, 4],
        resblock_kernel_sizes=[3], resblock_dilation_sizes=[[1, 3]], normalize_before=True,
    )  # fmt: skip
    return livened(SpeechT5HifiGan(config), 6.0)


@seeded
def patchtst() -> nn.Module:
    """Forecasts of several series."""
    from transformers import PatchTSTConfig, PatchTSTForPrediction

    config = PatchTSTConfig(
        num_input_channels=3, context_length=64, patch_length=8, patch_stride=8, prediction_length=12, d_model=32,
        num_hidden_layers=2, num_attention_heads=4, ffn_dim=64, scaling="std", loss="mse",
    )  # fmt: skip
    return Picked(livened(PatchTSTForPrediction(config), 1.5), ("past_values",), ("prediction_outputs",))
