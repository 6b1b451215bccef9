"""Tiny random Grounding DINO and SAM, the same weights in both packages' names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
import transformers as t

from data_prep.grounding.detect_segment import ModelGrounder, Segmenter
from data_prep.grounding.original_backend import DinoArchitecture, SamArchitecture, build_dino, build_sam

DINO = DinoArchitecture(
    embed_dim=16, depths=(1, 1, 2, 1), heads=(1, 1, 2, 2), window=2, layers=2, attention_heads=4, feedforward=64, queries=20
)
SAM = SamArchitecture(
    embed_dim=32, depth=2, heads=2, global_attention=(1,), side=64, prompt_dim=32, window=2, decoder_mlp=32, decoder_heads=2
)
# transformers knows [CLS], [SEP], "." and "?" by their numbers in BERT's vocabulary.
_FIXED = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]", 1012: ".", 1029: "?"}
_WORDS = [_FIXED.get(i, f"[unused{i}]") for i in range(1030)] + ["dog", "cat", "a", "sad", "old", "tree"]

_BLOCK = r"backbone\.0\.layers\.(\d+)\.blocks\.(\d+)\."
_SWIN = "model.backbone.conv_encoder.model.swin."
_ATTENTION = r"(self_attn|encoder_attn_text|text_enhancer_layer\.self_attn)"
_DINO_NAMES = [
    (_BLOCK + r"norm1", _SWIN + r"encoder.layers.\1.blocks.\2.layernorm_before"),
    (_BLOCK + r"norm2", _SWIN + r"encoder.layers.\1.blocks.\2.layernorm_after"),
    (
        _BLOCK + r"attn\.relative_position_bias_table",
        _SWIN + r"encoder.layers.\1.blocks.\2.attention.relative_position_bias.relative_position_bias_table",
    ),
    (_BLOCK + r"attn\.proj", _SWIN + r"encoder.layers.\1.blocks.\2.attention.o_proj"),
    (_BLOCK + r"attn\.", _SWIN + r"encoder.layers.\1.blocks.\2.attention."),
    (_BLOCK, _SWIN + r"encoder.layers.\1.blocks.\2."),
    (r"backbone\.0\.layers\.(\d+)\.downsample", _SWIN + r"encoder.layers.\1.downsample"),
    (r"backbone\.0\.patch_embed\.proj", _SWIN + "embeddings.patch_embeddings.projection"),
    (r"backbone\.0\.patch_embed\.norm", _SWIN + "embeddings.norm"),
    (r"backbone\.0\.norm(\d)", lambda m: f"model.backbone.conv_encoder.model.hidden_states_norms.stage{int(m[1]) + 1}"),
    (r"^bert\.", "model.text_backbone."),
    (r"^input_proj", "model.input_proj_vision"),
    (r"^feat_map", "model.text_projection"),
    (r"^transformer\.level_embed", "model.level_embed"),
    (r"^transformer\.tgt_embed", "model.query_position_embeddings"),
    (r"^transformer\.enc_output", "model.enc_output"),
    (r"^transformer\.enc_out_bbox_embed", "model.encoder_output_bbox_embed"),
    (r"^transformer\.decoder\.norm", "model.decoder.layer_norm"),
    (r"^transformer\.decoder\.ref_point_head", "model.decoder.reference_points_head"),
    (r"^transformer\.decoder\.bbox_embed", "model.decoder.bbox_embed"),
    (r"^transformer\.encoder\.layers\.(\d+)\.norm1", r"model.encoder.layers.\1.deformable_layer.self_attn_layer_norm"),
    (r"^transformer\.encoder\.layers\.(\d+)\.norm2", r"model.encoder.layers.\1.deformable_layer.final_layer_norm"),
    (r"^transformer\.encoder\.layers\.(\d+)\.linear", r"model.encoder.layers.\1.deformable_layer.fc"),
    (r"^transformer\.encoder\.layers\.(\d+)\.", r"model.encoder.layers.\1.deformable_layer."),
    (r"^transformer\.encoder\.text_layers\.(\d+)\.norm1", r"model.encoder.layers.\1.text_enhancer_layer.layer_norm_before"),
    (r"^transformer\.encoder\.text_layers\.(\d+)\.norm2", r"model.encoder.layers.\1.text_enhancer_layer.layer_norm_after"),
    (r"^transformer\.encoder\.text_layers\.(\d+)\.linear", r"model.encoder.layers.\1.text_enhancer_layer.fc"),
    (r"^transformer\.encoder\.text_layers\.(\d+)\.", r"model.encoder.layers.\1.text_enhancer_layer."),
    (r"^transformer\.encoder\.fusion_layers\.(\d+)\.gamma_v", r"model.encoder.layers.\1.fusion_layer.vision_param"),
    (r"^transformer\.encoder\.fusion_layers\.(\d+)\.gamma_l", r"model.encoder.layers.\1.fusion_layer.text_param"),
    (r"^transformer\.encoder\.fusion_layers\.(\d+)\.", r"model.encoder.layers.\1.fusion_layer."),
    (r"(fusion_layer\.layer_norm)_v\b", r"\1_vision"),
    (r"(fusion_layer\.layer_norm)_l\b", r"\1_text"),
    (r"(fusion_layer\.attn\.(?:values_|out_)?)v_proj", r"\1vision_proj"),
    (r"(fusion_layer\.attn\.(?:values_|out_)?)l_proj", r"\1text_proj"),
    (r"^transformer\.decoder\.layers\.(\d+)\.cross_attn", r"model.decoder.layers.\1.encoder_attn"),
    (r"^transformer\.decoder\.layers\.(\d+)\.ca_text", r"model.decoder.layers.\1.encoder_attn_text"),
    (r"^transformer\.decoder\.layers\.(\d+)\.catext_norm", r"model.decoder.layers.\1.encoder_attn_text_layer_norm"),
    (r"^transformer\.decoder\.layers\.(\d+)\.norm1", r"model.decoder.layers.\1.encoder_attn_layer_norm"),
    (r"^transformer\.decoder\.layers\.(\d+)\.norm2", r"model.decoder.layers.\1.self_attn_layer_norm"),
    (r"^transformer\.decoder\.layers\.(\d+)\.norm3", r"model.decoder.layers.\1.final_layer_norm"),
    (r"^transformer\.decoder\.layers\.(\d+)\.linear", r"model.decoder.layers.\1.fc"),
    (r"^transformer\.decoder\.", "model.decoder."),
]
_SAM_NAMES = [
    (r"^image_encoder\.patch_embed\.proj", "vision_encoder.patch_embed.projection"),
    (r"^image_encoder\.blocks\.(\d+)\.norm", r"vision_encoder.layers.\1.layer_norm"),
    (r"^image_encoder\.blocks", "vision_encoder.layers"),
    (
        r"^image_encoder\.neck\.(\d)",
        lambda m: "vision_encoder.neck." + ["conv1", "layer_norm1", "conv2", "layer_norm2"][int(m[1])],
    ),
    (r"^image_encoder\.", "vision_encoder."),
    (r"pe_layer\.positional_encoding_gaussian_matrix", "shared_embedding.positional_embedding"),
    (r"point_embeddings", "point_embed"),
    (
        r"mask_downscaling\.(\d)",
        lambda m: "mask_embed." + {0: "conv1", 1: "layer_norm1", 3: "conv2", 4: "layer_norm2", 6: "conv3"}[int(m[1])],
    ),
    (r"(transformer\.layers\.\d+)\.norm", r"\1.layer_norm"),
    (r"norm_final_attn", "layer_norm_final_attn"),
    (r"output_upscaling\.(\d)", lambda m: {0: "upscale_conv1", 1: "upscale_layer_norm", 3: "upscale_conv2"}[int(m[1])]),
    (
        r"(output_hypernetworks_mlps\.\d|iou_prediction_head)\.layers\.(\d)",
        lambda m: f"{m[1]}.{['proj_in', 'layers.0', 'proj_out'][int(m[2])]}",
    ),
]


def randomise(model: torch.nn.Module, seed: int) -> None:
    """Every weight random: what starts as zero or one would hide a swapped name."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            is_scale = weight.dim() == 1 and name.endswith("weight")
            weight.copy_(1 + 0.2 * noise if is_scale else noise * (0.15 if weight.dim() == 1 else weight[0].numel() ** -0.5))


def _renamed(name: str, table: list[tuple[str, Any]]) -> str:
    for pattern, new in table:
        name = re.sub(pattern, new, name)
    return name


def dino_in_transformers_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """groundingdino-py's names → those of `GroundingDinoForObjectDetection`; joint projections are split."""
    out = {}
    for key, tensor in state.items():
        # A constant, and a layer whose output nobody reads.
        if key.endswith("relative_position_index") or key.startswith("bert.pooler."):
            continue
        name = _renamed(key, _DINO_NAMES)
        if match := re.fullmatch(r"(.*)\.attention\.qkv\.(weight|bias)", name):
            for part, which in zip(tensor.chunk(3), "qkv", strict=True):
                out[f"{match[1]}.attention.{which}_proj.{match[2]}"] = part.clone()
        elif match := re.fullmatch(rf"(.*{_ATTENTION})\.in_proj_(weight|bias)", name):
            for part, which in zip(tensor.chunk(3), ("query", "key", "value"), strict=True):
                out[f"{match[1]}.{which}.{match[3]}"] = part.clone()
        else:
            out[name] = tensor.clone()
    return out


def sam_in_transformers_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """segment-anything's names → those of `SamModel`."""
    out = {_renamed(key, _SAM_NAMES): tensor.clone() for key, tensor in state.items()}
    out["shared_image_embedding.positional_embedding"] = out["prompt_encoder.shared_embedding.positional_embedding"].clone()
    return out


def save_text_encoder(folder: Path) -> Path:
    """Tokenizer and configuration of a tiny BERT."""
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(_WORDS))
    t.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    t.BertConfig(
        vocab_size=len(_WORDS),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    ).save_pretrained(folder)
    return folder


def new_dino(text: Path) -> t.GroundingDinoForObjectDetection:
    """An unfilled Grounding DINO of transformers, of the shape `DINO`.

    Args:
        text: of `save_text_encoder`.
    """
    return t.GroundingDinoForObjectDetection(
        t.GroundingDinoConfig(
            backbone_config=t.SwinConfig(
                embed_dim=DINO.embed_dim,
                depths=list(DINO.depths),
                num_heads=list(DINO.heads),
                window_size=DINO.window,
                # Its types name it `_out_features`; it is read by this name.
                out_features=["stage2", "stage3", "stage4"],  # type: ignore[call-arg]
            ),
            text_config=t.BertConfig.from_pretrained(text),
            encoder_layers=DINO.layers,
            decoder_layers=DINO.layers,
            encoder_attention_heads=DINO.attention_heads,
            decoder_attention_heads=DINO.attention_heads,
            encoder_ffn_dim=DINO.feedforward,
            decoder_ffn_dim=DINO.feedforward,
            num_queries=DINO.queries,
        )
    )


def new_sam() -> t.SamModel:
    """An unfilled SAM of transformers, of the shape `SAM`."""
    return t.SamModel(
        t.SamConfig(
            vision_config=t.SamVisionConfig(
                hidden_size=SAM.embed_dim,
                output_channels=SAM.prompt_dim,
                num_hidden_layers=SAM.depth,
                num_attention_heads=SAM.heads,
                image_size=SAM.side,
                patch_size=16,
                window_size=SAM.window,
                global_attn_indexes=list(SAM.global_attention),
                num_pos_feats=SAM.prompt_dim // 2,
            ),
            prompt_encoder_config=t.SamPromptEncoderConfig(hidden_size=SAM.prompt_dim, image_size=SAM.side, patch_size=16),
            mask_decoder_config=t.SamMaskDecoderConfig(
                hidden_size=SAM.prompt_dim,
                mlp_dim=SAM.decoder_mlp,
                num_attention_heads=SAM.decoder_heads,
            ),
        )
    )


def save_dino(model: t.GroundingDinoForObjectDetection, text: Path, folder: Path, size: dict[str, int]) -> None:
    """Model, image processor of this size, and tokenizer, for `from_pretrained`."""
    model.save_pretrained(folder)
    t.GroundingDinoImageProcessorPil(size=size).save_pretrained(folder)
    t.AutoTokenizer.from_pretrained(text).save_pretrained(folder)


def save_sam(model: t.SamModel, folder: Path) -> None:
    """Model and image processor, for `from_pretrained`."""
    model.save_pretrained(folder)
    square = {"height": SAM.side, "width": SAM.side}
    t.SamImageProcessorPil(size={"longest_edge": SAM.side}, pad_size=square).save_pretrained(folder)


def save_transformers_models(folder: Path, *, size: dict[str, int]) -> dict[str, Path]:
    """Folders `dino` and `sam` with random weights; needs neither of the original packages.

    Args:
        folder: filled.
        size: of the detector's image processor.
    """
    paths = {name: folder / name for name in ("text", "dino", "sam")}
    save_text_encoder(paths["text"])
    dino, sam = new_dino(paths["text"]), new_sam()
    for seed, model in enumerate((dino, sam)):
        randomise(model, seed)
    save_dino(dino, paths["text"], paths["dino"], size)
    save_sam(sam, paths["sam"])
    return paths


def save_models(folder: Path, *, size: dict[str, int]) -> dict[str, Path]:
    """`dino.pth`, `sam.pth` in the authors' format and, with the same weights, folders for `from_pretrained`.

    Args:
        folder: filled.
        size: of the detector's image processor in transformers' folder.
    """
    paths = {name: folder / name for name in ("text", "dino.pth", "sam.pth", "dino", "sam")}
    save_text_encoder(paths["text"])
    dino = build_dino(DINO, str(paths["text"]))
    randomise(dino, 0)
    torch.save({"model": {f"module.{k}": v for k, v in dino.state_dict().items()}}, paths["dino.pth"])
    twin = new_dino(paths["text"])
    result = twin.load_state_dict(dino_in_transformers_names(dino.state_dict()), strict=False)
    # The last norm of the backbone is there in transformers and not used.
    assert sorted(result.missing_keys) == [f"{_SWIN}layernorm.bias", f"{_SWIN}layernorm.weight"]
    assert not result.unexpected_keys
    save_dino(twin, paths["text"], paths["dino"], size)

    sam = build_sam(SAM)
    randomise(sam, 1)
    torch.save(sam.state_dict(), paths["sam.pth"])
    other = new_sam()
    other.load_state_dict(sam_in_transformers_names(sam.state_dict()))
    save_sam(other, paths["sam"])
    return paths


def segmenter_of(grounder: ModelGrounder) -> Segmenter:
    """The segmenter of a grounder that draws masks."""
    assert grounder.segmenter is not None
    return grounder.segmenter
