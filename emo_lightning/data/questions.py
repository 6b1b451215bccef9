"""Tars -> questions without answers, for features and predictions: the model's input is the image and the prompt, nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from emo_lightning.core.errors import InputError
from emo_lightning.core.records import Record
from emo_lightning.core.tar_labels import TarLabels
from emo_lightning.data.batches import ChatBatch, QuestionBatch
from emo_lightning.data.chat import objective
from emo_lightning.data.collate import Collator, ImageQuestion, faults_in
from emo_lightning.data.images import check_shapes, grey
from emo_lightning.data.lengths import check_questions
from emo_lightning.data.loader import ResumableLoader, check_counts
from emo_lightning.data.module import DataModule
from emo_lightning.data.pictures import PictureDataset
from emo_lightning.data.protocols import AsksQuestions, BackboneInputs
from emo_lightning.data.sampler import Slot
from emo_lightning.data.skips import MAX_SKIPPED_BY_DEFAULT, OnError
from emo_lightning.data.tar_index import TarIndex
from emo_lightning.data.vision_cache import VisionCache
from emo_lightning.data.workers import Workers
from emo_lightning.models.families import family_of

RowQuestion = tuple[int, ImageQuestion]
"""A row of the index, and its image."""


class QuestionDataset(PictureDataset[RowQuestion]):
    """(row, image) pairs of an index; the question is put by the collator. `blind`: grey of the image's size in its place."""

    def __init__(
        self,
        index: TarIndex,
        rows: Sequence[int],
        blind: bool = False,
        vision: VisionCache | None = None,
        *,
        skip: bool = False,
    ) -> None:
        super().__init__(index, vision, skip=skip)
        self.rows, self.blind = rows, blind

    def __len__(self) -> int:
        return len(self.rows)

    def expect(self, numbers: Sequence[int]) -> None:
        """See `SlotDataset.expect`."""
        super().expect([self.rows[number] for number in numbers])

    def __getitem__(self, slot: Slot) -> RowQuestion:
        row = self.rows[slot.index]
        _, image, key, fault = self.pictured(row)
        filler = slot.filler or fault is not None
        return row, ImageQuestion(key, grey(image.size) if self.blind else image, (), filler=filler, fault=fault)


class QuestionCollator:
    """Collates the same images once per objective."""

    def __init__(self, collator: Collator, objectives: Sequence[str]) -> None:
        self.collator = collator
        self.keys = {name: objective(name).keys for name in objectives}

    def __call__(self, samples: Sequence[RowQuestion]) -> QuestionBatch:
        """All objectives in one batch that is packed, or each in one that is padded."""
        rows = [row for row, _ in samples]
        names = list(self.keys)
        together = [tuple(names)] if self.collator.packed else [(name,) for name in names]
        asked: dict[tuple[str, ...], ChatBatch] = {}
        for some in together:
            keys, *more = (self.keys[name] for name in some)
            asked[some] = self.collator(
                [ImageQuestion(q.key, q.image, keys, filler=q.filler, more=tuple(more), fault=q.fault) for _, q in samples]
            )
        batch: QuestionBatch = {"rows": rows, "inputs": asked, "filler": [q.filler for _, q in samples]}
        if faults := faults_in(q for _, q in samples):
            batch["faults"] = faults
        return batch


class QuestionDataModule(DataModule[AsksQuestions]):
    """Loaders for `PredictTask` and `FeatureTask`; every image once over all ranks, in order.

    Args:
        sets: name of a set -> tars, folders of tars, globs or brace ranges.
        objectives: what is asked of each image, one question each.
        batch_size: images per rank and step.
        num_workers: processes that read ahead (`workers.worker_count`).
        max_length: tokens; a longer sample is an error.
        limit: use only the first so many images of each set.
        blind: show grey in place of every image: what the model says without looking.
        allow_leaks: cache the features of a set `train` although it holds images of a held-out split or of another set.
        on_error: `stop` at an image that cannot be read (damaged, no image, of another size than its record says), or `skip` it: it has no
            answer and no features then, and is named. A record that cannot be read always stops.
        max_skipped: with `skip`, most images that all ranks together leave out before they stop all the same.
        labels: where tars without our record say what an image is labelled, and what it means.
    """

    task_type = AsksQuestions

    def __init__(
        self,
        sets: dict[str, list[str]],
        objectives: list[str],
        batch_size: int = 16,
        num_workers: Workers = "auto",
        max_length: int = 4096,
        limit: int | None = None,
        blind: bool = False,
        allow_leaks: bool = False,
        on_error: OnError = "stop",
        max_skipped: int = MAX_SKIPPED_BY_DEFAULT,
        labels: TarLabels | None = None,
    ) -> None:
        super().__init__(batch_size, num_workers, on_error=on_error, max_skipped=max_skipped)
        if not sets or not objectives:
            msg = f"data.sets={sets}, data.objectives={objectives}: expected at least one of each"
            raise InputError(msg)
        for name in objectives:
            objective(name)
        check_counts(max_length=max_length, limit=limit)
        self.sets, self.objectives = sets, objectives
        self.max_length, self.limit, self.blind = max_length, limit, blind
        self.allow_leaks, self.labels = allow_leaks, labels
        self._indices: dict[str, TarIndex] = {}
        self.pending: list[str] = []
        """Sets with images left, in the order of the loaders."""

    def index(self, name: str) -> TarIndex:
        """The set's images and records, opened once."""
        if name not in self._indices:
            index = self.open_tars(self.sets[name], self.labels)
            self._indices[name] = index if self.limit is None else index.take(range(min(self.limit, len(index))))
        return self._indices[name]

    def record(self, name: str, row: int) -> Record:
        """The annotation of one image: for labels beside the features, never for the model."""
        return self.index(name).record(row)

    def setup(self, stage: str) -> None:
        """Open and check all tars before the first step."""
        super().setup(stage)
        for name in self.sets:
            check_shapes(self.index(name))

    def test_dataloader(self) -> list[ResumableLoader[QuestionBatch]]:
        """One loader for each set that has images left."""
        rows = {name: self.rows_left(name) for name in self.sets}
        self.pending = [name for name in self.sets if rows[name]]
        return [self._loader(name, rows[name]) for name in self.pending]

    def rows_left(self, name: str) -> list[int]:
        """Rows of the set's index whose ids are not among those that the task has done."""
        index, done = self.index(name), self.task.done(name)
        return [row for row in range(len(index)) if not done or index.id(row) not in done]

    def _loader(self, name: str, rows: list[int]) -> ResumableLoader[QuestionBatch]:
        inputs, index = self.task.backbone_inputs(), self.index(name)
        collator = Collator(inputs.processor, inputs.model_type, answers=False, max_length=self.max_length, packed=inputs.packs)
        if self.task.longest_first():
            # Where memory does not suffice, that shows in the first batch.
            sizes = index.sizes().tolist()
            rows = sorted(rows, key=lambda row: -_area(inputs, sizes[row]))
        # The grey of a blind model is no picture of the tars.
        vision = None if self.blind else self.task.pictures(index.take(rows), self)
        dataset = QuestionDataset(index, rows, self.blind, vision, skip=self.skip)
        asked = list(dict.fromkeys([*self.objectives, *self.task.also_asks()]))
        check_questions(index.take(rows), [objective(one).keys for one in asked], collator, f"data.sets.{name}")
        return self.rank_loader(dataset, QuestionCollator(collator, asked), self.batch_size, shuffle=False)


def _area(inputs: BackboneInputs, size: Sequence[int]) -> int:
    """Pixels that the model sees, which its tokens are proportional to; the prompt is the same for all."""
    width, height = family_of(inputs.model_type).resized_size(inputs.processor, (size[0], size[1]))
    return width * height
