"""Replies drawn by vLLM, an optional engine (extra `vllm`): faster where replies are long, on the GPU that the policy learns on.

vLLM holds a model of its own, which is handed the policy's weights, adapters folded in, whenever these have changed: by its weight transfer
(docs.vllm.ai, training/weight_transfer), as CUDA IPC handles of one parameter after another. What it is asked is what the policy is asked: the
prompt in tokens and the picture, for a processor with the same limits of pixels; that both read the same tokens is checked in every reply.
What it says of probabilities is logged (`rollout/gap`) and never trusted: the policy reads every reply again.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from emo_lightning.core.errors import InputError
from emo_lightning.data.batches import ReplyTargets
from emo_lightning.models.backbone import Backbone
from emo_lightning.models.merged_weights import merged_weights
from emo_lightning.models.sampling import Replies, Sampling, never_drawn
from emo_lightning.models.vllm_server import EngineConfig, OpenedEngine, VLLMRequest, VLLMServer, handles, open_vllm

if TYPE_CHECKING:
    from PIL import Image

NEVER = -100.0
"""Added to the logits of tokens that are never drawn, as far down as vLLM takes it."""

CHUNK_BYTES = 1 << 30
"""Bytes of weights that are handed over at once: those with adapters exist twice for as long."""


class VLLMEngine:
    """See `sampling.ReplyEngine`; its batches must hold their pictures (`ReplyTargets.images`).

    Args:
        config: memory and length.
        opened: makes the server, of (config, folder of the model without weights, name of their type); vLLM itself unless a test says otherwise.
    """

    def __init__(self, config: EngineConfig, opened: Callable[[EngineConfig, str, str], OpenedEngine] | None = None) -> None:
        self.config = config
        self._open = opened or open_vllm
        self._opened: OpenedEngine | None = None
        self._folder: TemporaryDirectory[str] | None = None
        self._handed = torch.empty(0)
        self.handovers = 0
        """How often weights were handed over."""

    def __call__(
        self,
        backbone: Backbone,
        row: Mapping[str, object],
        images: Sequence[int],
        numbers: NDArray[np.float64],
        sampling: Sampling,
    ) -> Replies:
        """Draw replies.

        Raises:
            InputError: vLLM reads other tokens than the policy does.
            ValueError: a reply is none that could have been drawn.
        """
        opened = self._ready(backbone)
        self._hand_over(backbone, opened.server)
        prompts = cast(Tensor, row["input_ids"])[0].split(cast("list[int]", row["lengths"]))
        pictures = cast(ReplyTargets, row["asked"]).images
        asked = [prompts[image].tolist() for image in images]
        ends, banned = backbone.end_token_ids, never_drawn(backbone)
        requests, settings = [], []
        for image, ids, own in zip(images, asked, numbers, strict=True):
            for seed in own[:, 0]:
                requests.append(self._request(backbone, ids, pictures[image]))
                settings.append(opened.params(**_settings(sampling, float(seed), ends, banned)))
        found = opened.server.generate(requests, settings, use_tqdm=False)
        each = numbers.shape[1]
        return _replies(found, [ids for ids in asked for _ in range(each)], ends, backbone)

    def _ready(self, backbone: Backbone) -> OpenedEngine:
        if self._opened is None:
            self._folder = TemporaryDirectory(prefix="emo-vllm-")
            config = copy.deepcopy(backbone.base.config)
            # By which vLLM finds its own class.
            config.architectures = [type(backbone.base).__name__]
            config.save_pretrained(self._folder.name)
            backbone.processor.save_pretrained(self._folder.name)
            self._opened = self._open(self.config, self._folder.name, str(backbone.base.dtype).removeprefix("torch."))
        return self._opened

    def _hand_over(self, backbone: Backbone, server: VLLMServer) -> None:
        """Weights, unless they are those that it has."""
        now = _sums(parameter for _, _, parameter in backbone.parameter_groups())
        if self.handovers and torch.equal(now, self._handed):
            return
        server.start_weight_update()
        for chunk in _chunks(merged_weights(backbone.base), CHUNK_BYTES):
            server.update_weights({"update_info": handles(chunk)})
        server.finish_weight_update()
        server.reset_prefix_cache()
        self._handed, self.handovers = now, self.handovers + 1

    def _request(self, backbone: Backbone, ids: Sequence[int], picture: Image.Image) -> dict[str, object]:
        # What its vision tower made of a picture is kept by this name, and is not that of other weights.
        name = hashlib.sha256(picture.tobytes() + str((picture.size, self.handovers)).encode()).hexdigest()
        return {
            "prompt_token_ids": backbone.family.folded(backbone.processor, ids),
            "multi_modal_data": {"image": [picture]},
            "multi_modal_uuids": {"image": [name]},
        }


@torch.no_grad()
def _sums(weights: Iterable[Tensor]) -> Tensor:
    """Sum and length of each, float64: other weights have others, wherever they stand and whoever has written them."""
    both = [(one.sum(dtype=torch.float64), torch.linalg.vector_norm(one, dtype=torch.float64)) for one in weights]
    return torch.stack([number for pair in both for number in pair])


def _settings(sampling: Sampling, number: float, ends: Sequence[int], banned: Sequence[int]) -> dict[str, object]:
    """Of one reply: the whole distribution at its temperature, drawn from by a generator of its own."""
    return {
        "n": 1,
        "temperature": sampling.temperature,
        "seed": int(number * 2**53),
        "max_tokens": sampling.max_new_tokens,
        "stop_token_ids": list(ends),
        "logit_bias": dict.fromkeys(banned, NEVER),
        # That of the token itself.
        "logprobs": 0,
        "detokenize": False,
    }


def _replies(found: Sequence[VLLMRequest], asked: Sequence[Sequence[int]], ends: Sequence[int], backbone: Backbone) -> Replies:
    device, image = backbone.base.device, backbone.family.image_token_id(backbone.processor)
    tokens, log_p, ended = [], [], []
    for number, (request, ids) in enumerate(zip(found, asked, strict=True)):
        read = list(request.prompt_token_ids or ())
        if read != list(ids):
            own = list(ids).count(image)
            msg = (
                f"vLLM reads {len(read)} tokens with {read.count(image)} of the picture where the policy reads {len(ids)} with {own}: its "
                "processor has other limits of pixels, or another chat template; allowed for model.engine.name: own"
            )
            raise InputError(msg)
        said = request.outputs[0]
        steps = said.logprobs or ()
        over = said.finish_reason == "stop"
        if len(steps) != len(said.token_ids) or not said.token_ids or over != (said.token_ids[-1] in ends):
            msg = f"reply {number} of vLLM: {len(said.token_ids)} tokens, {len(steps)} log-probabilities, finish_reason {said.finish_reason!r}"
            raise ValueError(msg)
        tokens.append(torch.tensor(list(said.token_ids), device=device))
        log_p.append(
            torch.tensor([step[token].logprob for step, token in zip(steps, said.token_ids, strict=True)], device=device)
        )
        ended.append(over)
    return Replies(tokens, log_p, ended, None)


def _chunks(weights: Iterable[tuple[str, Tensor]], most: int) -> Iterator[list[tuple[str, Tensor]]]:
    """Of `most` bytes, or of one weight that is larger."""
    chunk: list[tuple[str, Tensor]] = []
    size = 0
    for name, weight in weights:
        if chunk and size + weight.nbytes > most:
            yield chunk
            chunk, size = [], 0
        chunk.append((name, weight.contiguous()))
        size += weight.nbytes
    if chunk:
        yield chunk
