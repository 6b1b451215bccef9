"""Tars -> questions with answers, for supervised fine-tuning."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from emo_lightning.core.errors import InputError
from emo_lightning.core.terminal import say
from emo_lightning.data.batches import ChatBatch
from emo_lightning.data.chat import objective
from emo_lightning.data.collate import Collator, Question
from emo_lightning.data.images import check_shapes, grey
from emo_lightning.data.leaks import check_leaks
from emo_lightning.data.lengths import sample_lengths, shared_lengths
from emo_lightning.data.loader import ResumableLoader, SlotDataset, check_counts
from emo_lightning.data.module import FitDataModule
from emo_lightning.data.packing import Lengths, PackedRows
from emo_lightning.data.protocols import LearnsAnswers
from emo_lightning.data.sampler import Slot
from emo_lightning.data.skips import Skips
from emo_lightning.data.tar_index import ShardError, TarIndex


class ConversationDataset(SlotDataset[Question]):
    """One question per image; which objective it serves is a pure function of (seed, epoch, row).

    Args:
        index: the images and their records.
        objectives: name -> weight; an image that lacks the labels of the chosen one is asked another that it has labels for.
        seed: of the choice.
        all_questions: ask all of them of each image, an answer counting by its weight: the mean of what would be drawn.
        skip: give a grey filler in the place of an image that cannot be read, of the size that its record says.

    Raises:
        InputError: no weight is above 0, or one is below.
    """

    def __init__(
        self, index: TarIndex, objectives: dict[str, float], seed: int, all_questions: bool = False, skip: bool = False
    ) -> None:
        self.index, self.all_questions, self.skip = index, all_questions, skip
        self.objectives = [objective(name) for name in objectives]
        self.weights = _shares(objectives)
        self.seed = seed

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, slot: Slot) -> Question:
        record = self.index.record(slot.index)
        fault = None
        try:
            image = self.index.picture(slot.index, record)
        except ShardError as error:
            if not self.skip:
                raise
            # As many tokens as were planned, and none that counts: every rank keeps its steps.
            image, fault = grey((record.width, record.height)), str(error)
        filler = slot.filler or fault is not None
        available = [o.available(record) for o in self.objectives]
        if self.all_questions:
            asked = [(keys, share) for keys, share in zip(available, self.weights, strict=True) if keys and share > 0]
            (keys, *more), shares = zip(*asked, strict=True)
            whole = tuple(float(share) / sum(shares) for share in shares)
            return Question(record.id, image, keys, record, filler, tuple(more), whole, fault=fault)
        keys = self._choose(slot, available)
        return Question(record.id, image, keys, record, filler, fault=fault)

    def _choose(self, slot: Slot, available: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
        chosen = self._chosen(slot.epoch, slot.index, [bool(keys) for keys in available])
        return () if chosen is None else available[chosen]

    def _chosen(self, epoch: int, row: int, available: Sequence[bool]) -> int | None:
        weights = np.where(available, self.weights, 0.0)
        if weights.sum() == 0:
            return None
        draw = np.random.Generator(np.random.PCG64([self.seed, epoch, row])).random()
        return int(np.searchsorted(np.cumsum(weights / weights.sum()), draw, side="right"))

    def lengths(self, collate: Collator) -> Lengths:
        """Tokens of every sample in each epoch, in which it may be asked something else."""
        table = sample_lengths(self.index, self.objectives, collate)
        if self.all_questions:
            asked = table[:, self.weights > 0]
            together = asked.sum(1) - np.maximum(0, (asked > 0).sum(1) - 1) * shared_lengths(self.index, collate)
            return lambda _epoch: together

        def in_epoch(epoch: int) -> NDArray[np.int64]:
            rows = range(len(table))
            if len(self.objectives) == 1:
                return table[:, 0]
            chosen = [self._chosen(epoch, row, (table[row] > 0).tolist()) or 0 for row in rows]
            return table[rows, chosen]

        return lru_cache(maxsize=2)(in_epoch)

    def longest(self, collate: Collator) -> Lengths:
        """Tokens of the longest that may be asked about each image: what a plan for all epochs has to make room for."""
        if self.all_questions:
            return self.lengths(collate)
        asked = [one for one, share in zip(self.objectives, self.weights, strict=True) if share > 0]
        table = sample_lengths(self.index, asked, collate).max(1)
        return lambda _epoch: table


def _shares(objectives: Mapping[str, float]) -> NDArray[np.float64]:
    """Weights that sum to 1.

    Raises:
        InputError: no weight is above 0, or one is below.
    """
    weights = np.array(list(objectives.values()), dtype=float)
    if not len(weights) or not np.isfinite(weights).all() or (weights < 0).any() or weights.sum() <= 0:
        msg = f"data.objectives={dict(objectives)}: weights must be 0 or more, and one above 0"
        raise InputError(msg)
    return np.asarray(weights / weights.sum())


class ConversationDataModule(FitDataModule[LearnsAnswers, Question, ChatBatch]):
    """Loaders for `SFTTask`.

    Args:
        train: tars, folders of tars, globs or brace ranges.
        val: the same, for the validation loss and the samples that are logged.
        objectives: what is trained, name -> weight: round 1 is `{attributes: 1}`, round 2 `{emotion: 0.8, attributes: 0.2}`
            (replay of round 1 keeps what it taught).
        batch_size: samples per rank and micro-batch; for training, only where `max_tokens` is None.
        val_batch_size: samples per rank and batch of validation; None takes `max_tokens`, else `batch_size`.
        max_tokens: per rank and micro-batch, whose samples stand in one row without padding (`data/packing.py`).
        global_tokens: of an optimiser step, on all ranks: how many micro-batches are accumulated follows from it and the number of ranks.
        all_questions: ask all objectives of each image, which is read once for them; an answer counts by its objective's weight, so that
            the loss is the mean of what would be drawn. Needs `max_tokens`.
        num_workers: processes that read ahead.
        max_length: tokens; a longer sample is an error.
        limit: use only the first so many training samples.
        seed: of the order and of the choice of objectives.
        allow_leaks: train although the training set holds images of a held-out split or of another set; it is said, not refused.
        on_error: `stop` at an image that cannot be read (damaged, no image, of another size than its record says), or `skip` it: its place
            stays, and counts nowhere. A record that cannot be read always stops.
        max_skipped: with `skip`, most images that a rank leaves out before it stops all the same.
    """

    task_type = LearnsAnswers

    def __init__(
        self,
        train: list[str],
        val: list[str],
        objectives: dict[str, float],
        batch_size: int = 8,
        val_batch_size: int | None = None,
        max_tokens: int | None = None,
        global_tokens: int | None = None,
        all_questions: bool = False,
        num_workers: int = 0,
        max_length: int = 4096,
        limit: int | None = None,
        seed: int = 0,
        allow_leaks: bool = False,
        on_error: Literal["stop", "skip"] = "stop",
        max_skipped: int = 10,
    ) -> None:
        super().__init__(batch_size, num_workers, seed)
        self.allow_leaks = allow_leaks
        if on_error not in ("stop", "skip"):
            msg = f"data.on_error={on_error!r}; allowed: stop, skip"
            raise InputError(msg)
        self.skip, self.skips = on_error == "skip", Skips(max_skipped)
        check_counts(
            val_batch_size=val_batch_size,
            max_length=max_length,
            limit=limit,
            max_tokens=max_tokens,
            global_tokens=global_tokens,
            max_skipped=max_skipped,
        )
        if global_tokens is not None and max_tokens is None:
            msg = f"data.global_tokens: found {global_tokens} without data.max_tokens; set both, or data.batch_size"
            raise InputError(msg)
        if all_questions and max_tokens is None:
            msg = "data.all_questions: found true without data.max_tokens; questions share an image in packed rows alone"
            raise InputError(msg)
        self.max_tokens, self.global_tokens, self.all_questions = max_tokens, global_tokens, all_questions
        self.paths, self.objectives = {"train": train, "val": val}, objectives
        self.val_batch_size, self.max_length, self.limit = val_batch_size, max_length, limit
        self._datasets: dict[str, ConversationDataset] = {}
        self.skipped: dict[str, int] = {}
        self._labels: dict[str, Counter[str]] = {}
        self._plans: dict[tuple[int, int], PackedRows] = {}
        self._lengths: Lengths | None = None

    def dataset(self, name: str) -> ConversationDataset:
        """`train` or `val`, opened once; records without any label that is asked for are left out and counted in `skipped`.

        Raises:
            InputError: no record of the set has a label that is asked for.
        """
        if name not in self._datasets:
            shares = _shares(self.objectives)
            asked_at_all = [name for name, share in zip(self.objectives, shares, strict=True) if share > 0]
            whole = TarIndex.open(self.paths[name])
            labelled = {wanted: objective(wanted).labelled(whole) for wanted in self.objectives}
            rows = np.flatnonzero(np.any([labelled[wanted] for wanted in asked_at_all], axis=0))
            self.skipped[name] = len(whole) - len(rows)
            if not len(rows):
                msg = f"data.{name}: none of {len(whole)} records has labels for {', '.join(asked_at_all)}"
                raise InputError(msg)
            if name == "train" and self.limit is not None:
                rows = rows[: self.limit]
            index = whole.take(rows)
            labelled["emotion_scores"] = whole.has("emotion_scores")
            self._labels[name] = Counter({label: int(found[rows].sum()) for label, found in labelled.items()})
            self._datasets[name] = ConversationDataset(index, self.objectives, self.seed, self.all_questions, self.skip)
        return self._datasets[name]

    def setup(self, stage: str) -> None:
        """Open and check all tars before the first step; rank 0 says what is skipped."""
        super().setup(stage)
        if self.skip and self.trainer is not None:
            self.skips.keep_in(Path(self.trainer.default_root_dir), self.rank)
        self._accumulate()
        for name in self.paths:
            check_shapes(self.dataset(name).index)
            if self.skipped[name] and self.trainer is not None and self.trainer.is_global_zero:
                say(f"{name}: {self.skipped[name]} records have no label for {', '.join(self.objectives)} and are skipped")
        check_leaks({name: self.dataset(name).index for name in self.paths}, allowed=self.allow_leaks)
        if self.trainer is not None and self.trainer.is_global_zero:
            for remark in self.remarks():
                say(remark)

    def seen(self, batch: object) -> None:
        """Count the images of a batch that could not be read."""
        for key, fault in batch.get("faults", ()) if isinstance(batch, dict) else ():
            self.skips.add(key, fault)

    def summary(self) -> dict[str, object]:
        """What is trained on, as JSON.

        Returns:
            `images`, `skipped` and `labels` (objective or `emotion_scores` -> records that have them), each by split, and `remarks`;
            with `on_error: skip` also `unreadable`, id -> why.
        """
        return {
            "images": {name: len(dataset) for name, dataset in self._datasets.items()},
            "skipped": dict(self.skipped),
            "labels": {
                name: {label: found[label] for label in (*self.objectives, "emotion_scores")}
                for name, found in self._labels.items()
            },
            "remarks": self.remarks(),
            **({"unreadable": self.skips.of_all_ranks()} if self.skip else {}),
        }

    def remarks(self) -> list[str]:
        """What was asked for and these records leave without effect."""
        labels = self._labels["train"]
        remarks = [
            f"train: no record has a label for the objective {name!r}: its share goes to the others"
            for name, weight in self.objectives.items()
            if weight > 0 and not labels[name]
        ]
        if self.trainer is not None and self.task.wants_distributions() and not labels["emotion_scores"]:
            remarks.append(
                "train: no record has emotion_scores: soft labels are hard ones, a distribution loss has one word to aim at"
            )
        return remarks

    def rows_per_step(self, name: str, world_size: int) -> int:  # noqa: ARG002 (the base class's)
        """`batch_size`, or `val_batch_size` for validation."""
        return self.batch_size if name == "train" or self.val_batch_size is None else self.val_batch_size

    def train_batches(self, world_size: int) -> int:
        """See `FitDataModule.train_batches`."""
        if self.max_tokens is None:
            return super().train_batches(world_size)
        # That of this rank is needed anyway, and all ranks have as many.
        return len(self._rows(world_size, self.rank if world_size == self.world_size else 0))

    def train_dataloader(self) -> ResumableLoader[ChatBatch]:
        """Shuffled, sized, resumable."""
        if self.max_tokens is None:
            return super().train_dataloader()
        return self.loader_of(self.dataset("train"), self._rows(self.world_size, self.rank), self._collator(packed=True))

    def val_dataloader(self) -> ResumableLoader[ChatBatch]:
        """In order; planned rows have room for the longest that any epoch asks, so that they are the same in all."""
        if self.max_tokens is None or self.val_batch_size is not None:
            return super().val_dataloader()
        dataset, collate = self.dataset("val"), self._collator(packed=True)
        rows = PackedRows(
            dataset.longest(collate),
            self.max_tokens,
            epochs=1,
            seed=self.seed,
            rank=self.rank,
            world_size=self.world_size,
            shuffle=False,
        )
        return self.loader_of(dataset, rows, collate)

    def collate_fn(self) -> Callable[[list[Question]], ChatBatch]:
        """Built from the task's backbone, whose processor and coordinates it must use."""
        return self._collator(packed=self.max_tokens is not None)

    def _collator(self, *, packed: bool) -> Collator:
        inputs = self.task.backbone_inputs()
        if packed and not inputs.packs:
            msg = (
                f"data.max_tokens: found {self.max_tokens}; this backbone cannot pack samples into rows: expected null, which pads steps of "
                "data.batch_size samples, or model.backbone.attention: sdpa of a family that packs"
            )
            raise InputError(msg)
        return Collator(
            inputs.processor,
            inputs.model_type,
            answers=True,
            max_length=self.max_length,
            distributions=self.task.wants_distributions(),
            packed=packed,
        )

    def _rows(self, world_size: int, rank: int) -> PackedRows:
        """The plan of training in tokens; the same for all ranks but for whose rows they are."""
        if self.max_tokens is None:
            msg = "rows are planned where data.max_tokens is set"
            raise RuntimeError(msg)
        if (world_size, rank) not in self._plans:
            lengths = self._lengths = self._lengths or self.dataset("train").lengths(self._collator(packed=True))
            together = self.global_tokens // self.max_tokens if self.global_tokens else world_size
            self._plans[world_size, rank] = PackedRows(
                lengths,
                self.max_tokens,
                epochs=self.most_epochs,
                batches=self.most_batches,
                seed=self.seed,
                rank=rank,
                world_size=world_size,
                together=together,
            )
        return self._plans[world_size, rank]

    def _accumulate(self) -> None:
        """Have the Trainer accumulate as many micro-batches as `global_tokens` asks for.

        Raises:
            InputError: they are not whole micro-batches on all ranks, or the Trainer was told another number.
        """
        if self.trainer is None or self.max_tokens is None or self.global_tokens is None:
            return
        each = self.max_tokens * self.world_size
        batches, rest = divmod(self.global_tokens, each)
        if rest or not batches:
            msg = (
                f"data.global_tokens: found {self.global_tokens}; expected a multiple of {each}, which {self.world_size} "
                f"processes take in one micro-batch of data.max_tokens={self.max_tokens}"
            )
            raise InputError(msg)
        if self.trainer.accumulate_grad_batches not in (1, batches):
            msg = (
                f"trainer.accumulate_grad_batches: found {self.trainer.accumulate_grad_batches}; data.global_tokens={self.global_tokens} "
                f"means {batches}: leave one of the two out"
            )
            raise InputError(msg)
        self.trainer.accumulate_grad_batches = batches
