"""A backbone out of its files: model, processor and adapter, with what learns switched on.

Every way in which transformers or peft would go on in silence with an untrained, unquantised or mis-sized model is checked here, and
raises `BackboneError`.
"""

from __future__ import annotations

from pathlib import Path

from emo_lightning.core.model_folders import check_made_of, hub_snapshot, locate, made_of, weights_hash
from emo_lightning.models.adapters import attach
from emo_lightning.models.backbone import Backbone
from emo_lightning.models.backbone_config import BackboneConfig
from emo_lightning.models.blocks import checkpoint_blocks, compile_blocks
from emo_lightning.models.pretrained import PROCESSOR_FILES, keep_trainable, load_model, load_processor


def load_backbone(config: BackboneConfig) -> Backbone:
    """Load model and processor, attach or restore the adapter, freeze what does not learn, and check all of it.

    The model is in eval mode, as transformers gives it.

    Raises:
        BackboneError: unknown id or path, of no family that is supported, adapter that does not match, quantisation or pixel
            limits that did not take effect, nothing to train.
    """
    backbone = _loaded(config)
    if config.tuning == "qlora":
        keep_trainable(backbone.base)
    return backbone


def _loaded(config: BackboneConfig) -> Backbone:
    base_path, adapter = locate(config.path)
    model, family = load_model(config, base_path)
    # After loading: a hub id has its files in the cache only now.
    sources = _sources(config, base_path, adapter)
    # Beside an adapter stands the processor that it was trained with: its pixel limits are not the base model's.
    own = adapter is not None and any((adapter / name).exists() for name in PROCESSOR_FILES)
    # Of the same commit, should the hub have another by now.
    snapshot = None if own or Path(base_path).is_dir() else hub_snapshot(base_path)
    processor = load_processor(config, str(adapter) if own else base_path, family, snapshot.name if snapshot else None)
    family.prepare_pictures(model, processor)
    backbone = Backbone(attach(model, family, config, adapter, base_path), family, processor, config, sources)
    if config.gradient_checkpointing:
        checkpoint_blocks(backbone.base, family, config.gradient_checkpointing)
    if config.compile:
        compile_blocks(backbone.base, family)
    return backbone


def _sources(config: BackboneConfig, base_path: str, adapter: Path | None) -> dict[str, str]:
    """What a model that is trained now is made from, part -> content hash; empty where nothing trains.

    Raises:
        BackboneError: the adapter was trained on another base.
    """
    said = made_of(adapter) if adapter is not None else {}
    if "base" in said:
        check_made_of(f"adapter {adapter}", {"base": said["base"]}, {"base": weights_hash(base_path)})
    if config.tuning == "frozen":
        return {}
    started = {} if adapter is None else {"started_from": weights_hash(str(adapter))}
    return {"base": weights_hash(base_path), **started}


def load_frozen(config: BackboneConfig) -> Backbone:
    """As `load_backbone`, with nothing to learn (`BackboneConfig.frozen`): in eval mode, and no parameter requires a gradient."""
    return _loaded(config.frozen()).requires_grad_(False).eval()
