"""The original packages: groundingdino-py 0.4.0 and segment-anything 1.0 with their authors' `.pth` files (extra `[grounding]`).

The pure-PyTorch deformable attention of groundingdino-py is used: no compiler, CPU and GPU alike.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import tempfile
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

import torch
from transformers import AutoConfig, AutoTokenizer, GroundingDinoImageProcessorPil, SamImageProcessorPil

from data_prep.grounding.base import MIN_STORED_SCORE, GroundingError
from data_prep.grounding.detect_segment import Detector, ModelGrounder, Segmenter
from data_prep.local_models.checkpoints import CheckpointError, fill, pretrained, read_state

if TYPE_CHECKING:
    from groundingdino.models.GroundingDINO.groundingdino import GroundingDINO
    from segment_anything.modeling import Sam
    from transformers.image_processing_utils import BaseImageProcessor

_NO_WEIGHTS = (
    # Label embedding of the denoising training; nothing reads it at inference.
    "label_enc.weight",
    # 0, 1, 2, …: older versions of transformers saved it.
    "bert.embeddings.position_ids",
)


@dataclass(frozen=True)
class DinoArchitecture:
    """Shape of a Grounding DINO; the defaults are common to both published ones (its width, 256, is fixed in the package)."""

    embed_dim: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    window: int
    layers: int = 6
    attention_heads: int = 8
    feedforward: int = 2048
    queries: int = 900


DINO_ARCHITECTURES = {
    "swin_T": DinoArchitecture(embed_dim=96, depths=(2, 2, 6, 2), heads=(3, 6, 12, 24), window=7),
    "swin_B": DinoArchitecture(embed_dim=128, depths=(2, 2, 18, 2), heads=(4, 8, 16, 32), window=12),
}
"""`groundingdino_swint_ogc.pth` and `groundingdino_swinb_cogcoor.pth`."""


@dataclass(frozen=True)
class SamArchitecture:
    """Shape of a SAM; the defaults are common to the three published ones."""

    embed_dim: int
    depth: int
    heads: int
    global_attention: tuple[int, ...]
    side: int = 1024
    prompt_dim: int = 256
    window: int = 14
    decoder_mlp: int = 2048
    decoder_heads: int = 8


SAM_ARCHITECTURES = {
    "vit_b": SamArchitecture(embed_dim=768, depth=12, heads=12, global_attention=(2, 5, 8, 11)),
    "vit_l": SamArchitecture(embed_dim=1024, depth=24, heads=16, global_attention=(5, 11, 17, 23)),
    "vit_h": SamArchitecture(embed_dim=1280, depth=32, heads=16, global_attention=(7, 15, 23, 31)),
}
"""`sam_vit_b_01ec64.pth`, `sam_vit_l_0b3195.pth`, `sam_vit_h_4b8939.pth`."""


class OriginalDetector(Detector):
    """groundingdino-py's model.

    Args:
        model: of `build_dino`, filled.
        device: moved there.
        image_processor: default: shorter side 800, longer side at most 1333, as in the authors' inference.
    """

    def __init__(self, model: GroundingDINO, device: str = "cpu", image_processor: BaseImageProcessor | None = None) -> None:
        super().__init__(image_processor or GroundingDinoImageProcessorPil(), device)
        self.model = model.to(device).eval()

    def batch_key(self, text: str) -> int:
        """Number of tokens: in a batch of unlike texts the package gives some attention heads the mask of another text."""
        return len(self.model.tokenizer(text)["input_ids"])

    def forward(self, pixels: torch.Tensor, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Detector.forward`."""
        outputs = self.model(pixels, captions=texts)
        return outputs["pred_logits"], outputs["pred_boxes"]


class OriginalSegmenter(Segmenter):
    """segment-anything's model.

    Args:
        model: of `build_sam`, filled.
        device: moved there.
    """

    def __init__(self, model: Sam, device: str = "cpu") -> None:
        side = model.image_encoder.img_size
        super().__init__(SamImageProcessorPil(size={"longest_edge": side}, pad_size={"height": side, "width": side}), device)
        self.model = model.to(device).eval()
        self.mask_threshold = model.mask_threshold

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """See `Segmenter.encode`."""
        embeddings: torch.Tensor = self.model.image_encoder(pixels)
        return embeddings

    def decode(self, embedding: torch.Tensor, boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Segmenter.decode`."""
        sparse, dense = self.model.prompt_encoder(points=None, boxes=boxes, masks=None)
        proposals: tuple[torch.Tensor, torch.Tensor] = self.model.mask_decoder(
            image_embeddings=embedding,
            image_pe=self.model.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
        )
        return proposals


def build_dino(shape: DinoArchitecture, text_encoder: str) -> GroundingDINO:
    """An unfilled Grounding DINO of groundingdino-py.

    Args:
        shape: its architecture.
        text_encoder: hub name or folder of the tokenizer and configuration of its BERT.

    Raises:
        GroundingError: the package is not installed.
        CheckpointError: no such text encoder.
    """
    _require("groundingdino", "groundingdino-py==0.4.0")
    from groundingdino.models.GroundingDINO import groundingdino as package
    from groundingdino.models.GroundingDINO.backbone.backbone import Joiner
    from groundingdino.models.GroundingDINO.backbone.position_encoding import build_position_encoding
    from groundingdino.models.GroundingDINO.backbone.swin_transformer import SwinTransformer

    from data_prep.grounding.bert_compat import compatible_bert

    swin = SwinTransformer(
        embed_dim=shape.embed_dim,
        depths=list(shape.depths),
        num_heads=list(shape.heads),
        window_size=shape.window,
        out_indices=(1, 2, 3),
    )
    sizes = Namespace(
        hidden_dim=256,
        position_embedding="sine",
        pe_temperatureH=20,
        pe_temperatureW=20,
        dropout=0.0,
        nheads=shape.attention_heads,
        num_queries=shape.queries,
        dim_feedforward=shape.feedforward,
        enc_layers=shape.layers,
        dec_layers=shape.layers,
        pre_norm=False,
        query_dim=4,
        transformer_activation="relu",
        num_patterns=0,
        num_feature_levels=4,
        enc_n_points=4,
        dec_n_points=4,
        two_stage_type="standard",
        embed_init_tgt=True,
        use_text_enhancer=True,
        use_fusion_layer=True,
        use_checkpoint=False,
        use_transformer_ckpt=False,
        use_text_cross_attention=True,
        text_dropout=0.0,
        fusion_dropout=0.0,
        fusion_droppath=0.1,
    )
    backbone = Joiner(swin, build_position_encoding(sizes))
    backbone.num_channels = swin.num_features[1:]
    # The package takes no text encoder but one name of its own or a folder, and prints which one it took.
    with tempfile.TemporaryDirectory() as folder, compatible_bert(), contextlib.redirect_stdout(io.StringIO()):
        pretrained(AutoTokenizer.from_pretrained, text_encoder).save_pretrained(folder)
        pretrained(AutoConfig.from_pretrained, text_encoder).save_pretrained(folder)
        return package.GroundingDINO(
            backbone,
            package.build_transformer(sizes),
            num_queries=shape.queries,
            aux_loss=True,
            iter_update=True,
            query_dim=4,
            num_feature_levels=4,
            nheads=shape.attention_heads,
            two_stage_type="standard",
            dec_pred_bbox_embed_share=True,
            two_stage_class_embed_share=False,
            two_stage_bbox_embed_share=False,
            dn_number=0,
            text_encoder_type=folder,
            sub_sentence_present=True,
            max_text_len=256,
        )


def build_sam(shape: SamArchitecture) -> Sam:
    """An unfilled SAM of segment-anything.

    Raises:
        GroundingError: the package is not installed.
    """
    _require("segment_anything", "segment-anything==1.0")
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    grid = shape.side // 16
    return Sam(
        image_encoder=ImageEncoderViT(
            depth=shape.depth,
            embed_dim=shape.embed_dim,
            img_size=shape.side,
            mlp_ratio=4,
            num_heads=shape.heads,
            patch_size=16,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
            qkv_bias=True,
            use_rel_pos=True,
            global_attn_indexes=shape.global_attention,
            window_size=shape.window,
            out_chans=shape.prompt_dim,
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=shape.prompt_dim,
            image_embedding_size=(grid, grid),
            input_image_size=(shape.side, shape.side),
            mask_in_chans=16,
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer_dim=shape.prompt_dim,
            iou_head_depth=3,
            iou_head_hidden_dim=256,
            transformer=TwoWayTransformer(
                depth=2, embedding_dim=shape.prompt_dim, mlp_dim=shape.decoder_mlp, num_heads=shape.decoder_heads
            ),
        ),
    )


def load(
    detector: str,
    segmenter: str | None,
    *,
    text_encoder: str = "bert-base-uncased",
    device: str = "cpu",
    threshold: float = MIN_STORED_SCORE,
    dino: DinoArchitecture | None = None,
    sam: SamArchitecture | None = None,
) -> ModelGrounder:
    """Load the authors' files.

    Args:
        detector: a `.pth` of Grounding DINO; which one is seen from its shapes.
        segmenter: a `.pth` of SAM, or None for boxes alone.
        text_encoder: hub name or folder with tokenizer and configuration of BERT; its weights are in the `.pth`.
        device: for both.
        threshold: candidates with a lower score are dropped.
        dino: architecture of the detector, where it is none of the published ones.
        sam: architecture of the segmenter, likewise.

    Raises:
        CheckpointError: no such file; keys are missing, unknown or of another shape; no such text encoder.
        GroundingError: a package is not installed.
    """
    state = read_state(detector)
    shape = dino or _recognised(state, "backbone.0.patch_embed.proj.weight", 0, DINO_ARCHITECTURES, detector)
    network = build_dino(shape, text_encoder)
    fill(network, state, detector, _NO_WEIGHTS)
    found = OriginalDetector(network, device)
    if segmenter is None:
        return ModelGrounder(found, None, threshold)
    state = read_state(segmenter)
    mask_network = build_sam(sam or _recognised(state, "image_encoder.pos_embed", 3, SAM_ARCHITECTURES, segmenter))
    fill(mask_network, state, segmenter)
    return ModelGrounder(found, OriginalSegmenter(mask_network, device), threshold)


class _Architecture(Protocol):
    @property
    def embed_dim(self) -> int: ...


_A = TypeVar("_A", bound=_Architecture)


def _recognised(state: Mapping[str, torch.Tensor], key: str, axis: int, known: Mapping[str, _A], where: str) -> _A:
    """The published architecture whose width is that of `key`."""
    if key not in state:
        msg = f"{where}: key {key!r} is missing; is this the right kind of checkpoint? It has {sorted(state)[:3]}, …"
        raise CheckpointError(msg)
    width = state[key].shape[axis]
    for shape in known.values():
        if shape.embed_dim == width:
            return shape
    widths = ", ".join(f"{shape.embed_dim} ({name})" for name, shape in known.items())
    msg = f"{where}: {key} has width {width}; known: {widths}"
    raise CheckpointError(msg)


def _require(module: str, requirement: str) -> None:
    if importlib.util.find_spec(module) is None:
        msg = f"grounding.backend original needs {requirement}: pip install 'emo-lightning[grounding]'"
        raise GroundingError(msg)
