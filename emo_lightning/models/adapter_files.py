"""An adapter on disk: its two files read with limits, names of older versions renamed, and its patterns resolved within a time.

`adapter_config.json` may hold regular expressions, ranks and whole new layers. None of it is believed: patterns are matched with a limit
of time, and what cannot be an adapter of LoRA on this model is refused.
"""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import regex
from torch import Tensor, nn

from emo_lightning.core.files import read_object
from emo_lightning.core.model_loading import foreign_files
from emo_lightning.core.weight_files import MAX_CONFIG_BYTES, check_weight_files, weight_files
from emo_lightning.models.backbone_config import BackboneError
from emo_lightning.models.families import Family

if TYPE_CHECKING:
    from peft import LoraConfig

PEFT_PREFIX = "base_model.model."
"""Before the path of a module, in the keys that peft writes."""
ADAPTER_CONFIG_FILE = "adapter_config.json"
PATTERN_SECONDS = 2.0
"""For all patterns of one adapter together; those that people write take some milliseconds."""
_MOST_NEW = 1 << 26
"""Numbers that an adapter may ask for beyond four times what its file holds."""

_UNSUPPORTED = (
    "layer_replication",
    "megatron_config",
    "loftq_config",
    "eva_config",
    "corda_config",
    "lora_ga_config",
    "velora_config",
    "monteclora_config",
    "arrow_config",
    "kasa_config",
    "use_bdlora",
    "use_qalora",
    "alora_invocation_tokens",
    "trainable_token_indices",
    "target_parameters",
)
"""Keys that make something else than low-rank updates of layers; each must be empty."""
_INITIAL = (True, False, None, "gaussian", "orthogonal", "eva")
"""`init_lora_weights` that leaves the base model's own weights alone."""
_NAME = re.compile(r"[\w.]+")


@dataclass
class AdapterFiles:
    """What a folder of peft holds.

    Args:
        config: as it stands in the file.
        weights: by the names of today.
        renamed: whether they were called otherwise in the file; its patterns may then be about those names.
    """

    config: LoraConfig
    weights: dict[str, Tensor]
    renamed: bool


def read_adapter(folder: Path, family: Family) -> AdapterFiles:
    """Read the two files of an adapter.

    Raises:
        BackboneError: one is missing, cut off, a Git LFS pointer or damaged, or it is no LoRA; names the file.
    """
    from peft import LoraConfig, load_peft_weights

    check_weight_files(folder, BackboneError)
    where = folder / ADAPTER_CONFIG_FILE
    if where.stat().st_size > MAX_CONFIG_BYTES // 4:
        msg = f"adapter {where}: {where.stat().st_size:,} bytes; at most {MAX_CONFIG_BYTES // 4:,} are read"
        raise BackboneError(msg)
    settings = read_object(where)
    if not [file for file in weight_files(folder) if file.stem == "adapter_model"]:
        # peft would ask the hub for a model of the folder's name.
        msg = f"adapter {folder} has no adapter_model.safetensors: a download that did not end, or a copy that left it out"
        raise BackboneError(msg)
    if (kind := settings.get("peft_type")) != "LORA":
        msg = f"adapter {where}: key 'peft_type': found {str(kind)[:60]!r}; expected 'LORA'"
        raise BackboneError(msg)
    for key in _UNSUPPORTED:
        if settings.get(key):
            msg = f"adapter {where}: key {key!r}: found {str(settings[key])[:60]}; adapters with it cannot be used here"
            raise BackboneError(msg)
    if str(settings.get("init_lora_weights")) not in map(str, _INITIAL):
        # It would change the base model's own weights before the adapter is put on them.
        msg = f"adapter {where}: key 'init_lora_weights': found {str(settings['init_lora_weights'])[:60]!r}; convert it to a plain LoRA"
        raise BackboneError(msg)
    with foreign_files(f"adapter {folder} cannot be read", BackboneError):
        config = LoraConfig.from_pretrained(str(folder))
        weights = load_peft_weights(str(folder), device="cpu")
    assert isinstance(config, LoraConfig)
    for name, weight in weights.items():
        if not weight.is_floating_point() or not bool(weight.isfinite().all()):
            what = "holds NaN or infinity" if weight.is_floating_point() else f"is of type {weight.dtype}"
            msg = f"adapter {folder}: {name} {what}; expected finite floating-point numbers"
            raise BackboneError(msg)
    today = renamed_keys(weights, family)
    return AdapterFiles(config, today, today.keys() != weights.keys())


def renamed_keys(weights: Mapping[str, Tensor], family: Family) -> dict[str, Tensor]:
    """An adapter's weights by the names that modules have today, by the family's table."""
    return {_today(key, family): weight for key, weight in weights.items()}


def _today(key: str, family: Family) -> str:
    path = key.removeprefix(PEFT_PREFIX)
    if path != key:
        for old, new in family.old_names:
            if path.startswith(old):
                return PEFT_PREFIX + new + path.removeprefix(old)
    return key


def _formerly(path: str, family: Family) -> str:
    """What a module was called in the versions that the family's table is about."""
    for old, new in family.old_names:
        if f"{path}.".startswith(new):
            return (old + f"{path}.".removeprefix(new)).removesuffix(".")
    return path


class Patterns:
    """Regular expressions of others, matched with one limit of time for all.

    Args:
        where: names file and key, for the message.
    """

    def __init__(self, where: str) -> None:
        self.where = where
        self._until = time.monotonic() + PATTERN_SECONDS

    def matches(self, pattern: str, name: str) -> bool:
        """Whether the whole name is of the pattern.

        Raises:
            BackboneError: it is no pattern, or matching takes too long.
        """
        left = self._until - time.monotonic()
        try:
            if left <= 0:
                raise TimeoutError
            return regex.fullmatch(pattern, name, timeout=left) is not None
        except TimeoutError:
            msg = f"{self.where}: matching {pattern[:80]!r} takes longer than {PATTERN_SECONDS:g} s; write it without nested repetitions"
            raise BackboneError(msg) from None
        except (regex.error, RecursionError, OverflowError) as error:
            msg = f"{self.where}: {pattern[:80]!r} is no regular expression: {error}"
            raise BackboneError(msg) from None


def resolved(config: LoraConfig, model: nn.Module, family: Family, where: str, renamed: bool = False) -> LoraConfig:
    """A copy of the config that names every module in full, so that peft has no pattern to match.

    Args:
        config: with patterns.
        model: that it is put on.
        family: of the model.
        where: names file or key, for messages.
        renamed: its patterns may be about the names of older versions.

    Raises:
        BackboneError: a pattern that is none, takes too long or fits no module, or ranks that no weights are there for.
    """
    patterns = Patterns(where)
    names = [name for name, _ in model.named_modules() if name]
    # Its patterns may be about the names of then, or have been written for those of today.
    called = {name: [name, _formerly(name, family)] if renamed else [name] for name in names}
    wanted = [
        name
        for name in names
        if any(_targeted(config, each, model.get_submodule(name), family, patterns) for each in called[name])
    ]
    if not wanted:
        # `lora.targets` is one key of the user's, a file has many.
        key = where if where == "lora.targets" else f"{where}: target_modules"
        msg = f"{key}={str(config.target_modules)[:80]!r} matches no module of the backbone"
        raise BackboneError(msg)
    if wrong := [name for name in config.modules_to_save or () if not _NAME.fullmatch(str(name))]:
        msg = f"{where}: key 'modules_to_save': {str(wrong[0])[:80]!r} is no name of a module"
        raise BackboneError(msg)
    plain = copy.copy(config)
    plain.target_modules = "|".join(re.escape(name) for name in wanted)
    plain.exclude_modules = plain.layers_to_transform = plain.layers_pattern = None
    plain.rank_pattern = _by_name(config.rank_pattern, wanted, called, patterns)
    plain.alpha_pattern = _by_name(config.alpha_pattern, wanted, called, patterns)
    return plain


def restore_patterns(plain: LoraConfig, config: LoraConfig) -> None:
    """Give the config that peft keeps (and saves) the patterns that `resolved` has taken out of it."""
    for key in ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern"):
        setattr(plain, key, getattr(config, key))


def _targeted(config: LoraConfig, name: str, module: nn.Module, family: Family, patterns: Patterns) -> bool:
    """As `peft.tuners.tuners_utils.check_target_module_exists`."""
    targets = config.target_modules
    if targets == "all-linear":
        return isinstance(module, nn.Linear) and name != family.lm_head
    if targets is None:
        # Its own list for this kind of model: the projections of queries and values.
        targets = ["q_proj", "v_proj"]
    if config.exclude_modules and _listed(config.exclude_modules, name, patterns):
        return False
    if not _listed(targets, name, patterns):
        return False
    layers = config.layers_to_transform
    if layers is None or layers == [] or isinstance(targets, str) or name in targets:
        return True
    above = config.layers_pattern or r"[^.]*"
    found = [
        match
        for pattern in ([above] if isinstance(above, str) else above)
        if (match := re.match(rf"(?:^|.*?\.){_plain_name(pattern, patterns)}\.(?P<number>\d+)\.", name))
    ]
    return bool(found) and int(found[0]["number"]) in ([layers] if isinstance(layers, int) else layers)


def _plain_name(pattern: str, patterns: Patterns) -> str:
    if pattern != r"[^.]*" and not _NAME.fullmatch(pattern):
        msg = f"{patterns.where}: key 'layers_pattern': {pattern[:80]!r} is no name of a list of layers"
        raise BackboneError(msg)
    return pattern


def _listed(targets: str | Iterable[str], name: str, patterns: Patterns) -> bool:
    if isinstance(targets, str):
        return patterns.matches(targets, name)
    parts = name.split(".")
    return any(".".join(parts[start:]) in targets for start in range(len(parts)))


def _by_name(
    given: Mapping[str, int] | None, wanted: Iterable[str], called: Mapping[str, list[str]], patterns: Patterns
) -> dict[str, int]:
    """`rank_pattern` or `alpha_pattern` with a module's full name for each that one of its patterns is about."""
    if not given:
        return {}

    def first(name: str) -> str | None:
        # As peft: the first that matches the end of the name.
        ends = ((key, each) for key in given for each in called[name])
        return next((key for key, each in ends if patterns.matches(rf"(.*\.)?({key})", each)), None)

    found = {name: first(name) for name in wanted}
    return {re.escape(name): given[key] for name, key in found.items() if key is not None}


def check_size(config: LoraConfig, model: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    """Refuse ranks that the adapter's file does not hold, before memory is taken for them.

    Args:
        config: of `resolved`.
        model: that it is put on.
        weights: of the file.
        where: names file and key, for the message.

    Raises:
        BackboneError: it asks for more.
    """
    ranks = {name.replace("\\", ""): rank for name, rank in (config.rank_pattern or {}).items()}
    asked = 0
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.ndim > 1 and re.fullmatch(str(config.target_modules), name):
            rank = ranks.get(name, config.r)
            if not isinstance(rank, int) or rank < 1:
                msg = f"{where}: no adapter of this base model: `r` should be a positive integer, found {str(rank)[:40]}"
                raise BackboneError(msg)
            asked += rank * (weight.shape[0] + weight.shape[1:].numel())
    held = sum(weight.numel() for weight in weights.values())
    if asked > 4 * held + _MOST_NEW:
        msg = f"{where}: asks for {asked:,} numbers (r={config.r:,}); the adapter's file holds {held:,}"
        raise BackboneError(msg)
