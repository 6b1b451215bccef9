"""A server of replies in this process: vLLM, how it is opened, what is asked of it, and the form in which it takes weights.

Written against vLLM 0.32 as published: `LLM(...)`, `LLM.generate`, `SamplingParams`, `init_weight_transfer_engine`, `start_weight_update`,
`update_weights`, `finish_weight_update` and `reset_prefix_cache`. Nothing is imported of it before it is opened.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple, Protocol, cast, get_args

import torch
from torch import Tensor

from emo_lightning.core.errors import InputError

EngineName = Literal["own", "vllm"]


@dataclass
class EngineConfig:
    """What draws the replies that a policy learns from."""

    name: EngineName = "own"
    """`own`: the policy itself, by transformers' generation, on CPU or GPU; `vllm` (extra `vllm`): vLLM beside it on its GPU, one process alone."""
    memory: float = 0.4
    """Of `vllm`: the share of the GPU's memory that it takes, for its copy of the weights and for keys and values."""
    max_length: int = 8192
    """Of `vllm`: tokens of a question and its reply together, the picture's among them; `data.max_length` and `sampling.max_new_tokens` must fit."""

    def __post_init__(self) -> None:
        if self.name not in get_args(EngineName):
            msg = f"engine.name: found {self.name!r}; allowed: {', '.join(get_args(EngineName))}"
            raise InputError(msg)
        if not 0 < self.memory < 1:
            msg = f"engine.memory: found {self.memory}; expected a share, above 0 and below 1"
            raise InputError(msg)
        if self.max_length < 1:
            msg = f"engine.max_length: found {self.max_length}; expected at least 1"
            raise InputError(msg)


class TokenLogprob(Protocol):
    """As `Logprob` of vLLM."""

    logprob: float


class VLLMCompletion(Protocol):
    """The part of vLLM's `CompletionOutput` that is used here."""

    token_ids: Sequence[int]
    logprobs: Sequence[Mapping[int, TokenLogprob]] | None
    finish_reason: str | None


class VLLMRequest(Protocol):
    """The part of vLLM's `RequestOutput` that is used here."""

    prompt_token_ids: Sequence[int] | None
    outputs: Sequence[VLLMCompletion]


class VLLMServer(Protocol):
    """The part of vLLM's `LLM` that is used here."""

    def generate(
        self, prompts: Sequence[Mapping[str, object]], sampling_params: Sequence[object], *, use_tqdm: bool
    ) -> Sequence[VLLMRequest]:
        """A reply to each prompt, in their order."""
        ...

    def start_weight_update(self) -> None:
        """Begin to take weights."""
        ...

    def update_weights(self, request: dict[str, object]) -> None:
        """Take some."""
        ...

    def finish_weight_update(self) -> None:
        """They were all."""
        ...

    def reset_prefix_cache(self) -> bool:
        """Forget keys and values of what was read."""
        ...


class OpenedEngine(NamedTuple):
    """The engine, or what stands for it."""

    server: VLLMServer
    params: Callable[..., object]
    """`SamplingParams`."""


def handles(weights: Sequence[tuple[str, Tensor]]) -> dict[str, object]:
    """What vLLM's IPC backend takes for weights (`IPCWeightTransferUpdateInfo`); they must live until it has read them."""
    from torch.multiprocessing.reductions import reduce_tensor

    return {
        "names": [name for name, _ in weights],
        "dtype_names": [str(weight.dtype).removeprefix("torch.") for _, weight in weights],
        "shapes": [list(weight.shape) for _, weight in weights],
        "ipc_handles": [{device_name(weight.device): reduce_tensor(weight)} for _, weight in weights],
    }


def device_name(device: torch.device) -> str:
    """By which both sides know a GPU, whatever its number in a process."""
    return str(torch.cuda.get_device_properties(device).uuid) if device.type == "cuda" else device.type


def check_vllm() -> None:
    """Refuse the engine where it cannot run.

    Raises:
        InputError: says what is missing.
    """
    if find_spec("vllm") is None:
        msg = "model.engine.name: found 'vllm', which is not installed: pip install 'emo-lightning[vllm]' on Linux with CUDA; allowed without it: own"
        raise InputError(msg)
    if not torch.cuda.is_available():
        msg = "model.engine.name: found 'vllm', which needs a CUDA device here; allowed without one: own"
        raise InputError(msg)


def open_vllm(config: EngineConfig, folder: str, dtype: str) -> OpenedEngine:
    """Open vLLM, with weights still to come.

    Args:
        config: memory and length.
        folder: of configuration and processor.
        dtype: of the weights.
    """
    check_vllm()
    # Its worker is a process of its own, to which IPC handles are pickled; nobody else can reach it.
    os.environ.setdefault("VLLM_ALLOW_INSECURE_SERIALIZATION", "1")
    vllm: Any = import_module("vllm")
    transfer: Any = import_module("vllm.config")
    server = vllm.LLM(
        model=folder,
        load_format="dummy",
        dtype=dtype,
        gpu_memory_utilization=config.memory,
        max_model_len=config.max_length,
        limit_mm_per_prompt={"image": 1, "video": 0},
        # Of the distribution that is drawn from, at its temperature.
        logprobs_mode="processed_logprobs",
        # The model's own settings of generation have no say.
        generation_config="vllm",
        weight_transfer_config=transfer.WeightTransferConfig(backend="ipc"),
    )
    server.init_weight_transfer_engine({"init_info": {}})
    return OpenedEngine(cast(VLLMServer, server), vllm.SamplingParams)
