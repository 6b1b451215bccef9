"""What the five data modules share: the check of their task, this rank's loaders, and the size of an epoch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar, Generic, TypeVar, cast

from lightning.pytorch import LightningDataModule

from emo_lightning.core.tar_labels import TarLabels
from emo_lightning.data.loader import ResumableLoader, SlotDataset, check_counts
from emo_lightning.data.sampler import EpochBatches, EpochPlan
from emo_lightning.data.skips import MAX_SKIPPED_BY_DEFAULT, OnError, Skips, check_on_error, faults_of
from emo_lightning.data.step_cut import StepCut
from emo_lightning.data.tar_index import TarIndex
from emo_lightning.data.workers import PREFETCH_FACTOR, Workers, workers

TaskT = TypeVar("TaskT")
SampleT = TypeVar("SampleT")
BatchT = TypeVar("BatchT")


class DataModule(LightningDataModule, Generic[TaskT]):
    """Loaders for a task of one type.

    Args:
        batch_size: samples per rank and step.
        num_workers: processes that read ahead; 0 reads in the main process, `auto` decides by the machine and the data (`workers.worker_count`).
        seed: of the order.
        on_error: `stop` at an image that cannot be read (damaged, no image, of another size than its record says), or `skip` it: its place
            stays, and counts nowhere. A record that cannot be read always stops.
        max_skipped: with `skip`, most images that all ranks together leave out before they stop all the same.
    """

    task_type: ClassVar[type]
    """The protocol of `data/protocols.py` that the task must follow."""

    def __init__(
        self,
        batch_size: int,
        num_workers: Workers = "auto",
        seed: int = 0,
        *,
        on_error: OnError = "stop",
        max_skipped: int = MAX_SKIPPED_BY_DEFAULT,
    ) -> None:
        super().__init__()
        check_counts(batch_size=batch_size, num_workers=num_workers, seed=seed, max_skipped=max_skipped)
        check_on_error(on_error)
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.skip, self.skips = on_error == "skip", Skips(max_skipped)

    @property
    def task(self) -> TaskT:
        """The task that the Trainer runs.

        Raises:
            TypeError: it has not the methods that this data module calls.
            RuntimeError: there is no Trainer yet.
        """
        if self.trainer is None:
            msg = "loaders are made by the Trainer"
            raise RuntimeError(msg)
        task = self.trainer.lightning_module
        if not isinstance(task, self.task_type):
            methods = {name for base in self.task_type.__mro__ for name in vars(base) if not name.startswith("_")}
            lacks = ", ".join(sorted(methods.difference(dir(type(task)))))
            msg = (
                f"{type(self).__name__} needs a task that is a {self.task_type.__name__}; {type(task).__name__} has no {lacks}"
            )
            raise TypeError(msg)
        # `task_type` is TaskT's own class, which a class variable cannot say.
        return cast(TaskT, task)

    @property
    def world_size(self) -> int:
        """Number of processes that share the data."""
        return 1 if self.trainer is None else self.trainer.world_size

    @property
    def most_batches(self) -> int | None:
        """Micro-batches of training that a rank will see at most, in whole epochs; None where the Trainer limits no steps, or epochs."""
        # Lightning takes 1.0 for all batches of an epoch, and 1 for one.
        if self.trainer is None or self.trainer.max_steps < 0 or repr(self.trainer.limit_train_batches) not in ("1.0", "None"):
            return None
        return self.trainer.max_steps * self.trainer.accumulate_grad_batches

    @property
    def rank(self) -> int:
        """Of this process among those that share the data."""
        return 0 if self.trainer is None else self.trainer.global_rank

    @property
    def most_epochs(self) -> int:
        """How many the Trainer will run at most; 1 where it says nothing of it."""
        limits = () if self.trainer is None else (self.trainer.max_epochs, self.trainer.max_steps)
        return min((limit for limit in limits if limit is not None and limit >= 0), default=1)

    def open_tars(self, paths: list[str], labels: TarLabels | None = None, *, sized: bool = True) -> TarIndex:
        """The images and records of tars, of which `on_error: skip` leaves out those that are no pictures.

        Args:
            paths: tars, folders of tars, globs or brace ranges.
            labels: where tars without our record say what an image is labelled.
            sized: whether a backbone's processor takes the pictures, by whose sizes all is planned.
        """
        return TarIndex.open(paths, bad_images=self.skip, stand_ins=self.skip and sized, labels=labels)

    def setup(self, stage: str) -> None:  # noqa: ARG002 (Lightning's)
        """Refuse a task that this module cannot serve, before anything is opened."""
        if self.trainer is not None:
            _ = self.task
            if self.skip:
                self.skips.keep_in(Path(self.trainer.default_root_dir), self.rank)

    def summary(self) -> dict[str, object]:
        """What is trained on, as JSON for `training.json`; with `on_error: skip` the images that were left out, id -> why."""
        return {"unreadable": self.skips.of_all_ranks()} if self.skip else {}

    def state_dict(self) -> dict[str, object]:
        """What a checkpoint keeps: the images that were left out so far."""
        return {"skipped": dict(self.skips.met)} if self.skip else {}

    def load_state_dict(self, state_dict: Mapping[str, object]) -> None:
        """Go on with what was left out up to the checkpoint."""
        self.skips.met = dict(cast("Mapping[str, str]", state_dict.get("skipped", {})))

    def rank_loader(
        self,
        dataset: SlotDataset[SampleT],
        collate: Callable[[list[SampleT]], BatchT],
        batch_size: int,
        *,
        shuffle: bool,
        num_workers: int | None = None,
        accumulate: int = 1,
    ) -> ResumableLoader[BatchT]:
        """This rank's share of a dataset.

        Args:
            dataset: `dataset[Slot]` gives one sample.
            collate: list of samples to batch.
            batch_size: samples per rank and micro-batch.
            shuffle: False keeps the dataset's order.
            num_workers: processes that fetch ahead; None takes the module's own.
            accumulate: micro-batches of an optimiser step.
        """
        batches = EpochBatches(
            len(dataset),
            batch_size,
            seed=self.seed,
            rank=self.rank,
            world_size=self.world_size,
            shuffle=shuffle,
            accumulate=accumulate,
        )
        return self.loader_of(dataset, batches, collate, num_workers)

    def loader_of(
        self,
        dataset: SlotDataset[SampleT],
        batches: EpochPlan,
        collate: Callable[[list[SampleT]], BatchT],
        num_workers: int | None = None,
    ) -> ResumableLoader[BatchT]:
        """Batches of a plan; see `rank_loader`."""
        number = self.workers(len(dataset)) if num_workers is None else num_workers
        on_gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return ResumableLoader(
            dataset,
            batches,
            collate_fn=collate,
            num_workers=number,
            persistent_workers=number > 0,
            prefetch_factor=PREFETCH_FACTOR if number else None,
            pin_memory=on_gpu,
            seen=self.seen,
        )

    def seen(self, batch: object) -> None:
        """Take note of the images of a batch, which is handed to the Trainer now, that cannot be read."""
        for key, fault in faults_of(batch):
            self.skips.add(key, fault)

    def workers(self, samples: int) -> int:
        """Processes of this rank that read ahead, of a set of so many samples."""
        ranks = 1 if self.trainer is None else self.trainer.num_devices
        return workers(self.num_workers, samples // self.world_size, ranks)


class FitDataModule(DataModule[TaskT], Generic[TaskT, SampleT, BatchT]):
    """A training and a validation set: `train` is shuffled anew in each epoch, all others keep their order."""

    def dataset(self, name: str) -> SlotDataset[SampleT]:
        """The set `name`, opened once."""
        raise NotImplementedError

    def source(self, name: str) -> SlotDataset[SampleT]:
        """What a loader reads of the set `name`: the set, with pictures that a frozen vision tower has seen already where it is cached."""
        return self.dataset(name)

    def collate_fn(self) -> Callable[[list[SampleT]], BatchT]:
        """What makes a batch of samples; asked for each loader."""
        raise NotImplementedError

    _rows_of_cut: int | None = None
    """Of `take_cut`."""

    @property
    def most_rows(self) -> int:
        """See `CutsSteps`."""
        return self.batch_size

    def cut(self) -> StepCut:
        """See `CutsSteps`."""
        return StepCut(self.world_size, self.accumulated("train"), self.rows_per_step("train", self.world_size))

    def take_cut(self, cut: StepCut) -> None:
        """See `CutsSteps`."""
        self._rows_of_cut = cut.rows

    def rows_per_step(self, name: str, world_size: int) -> int:  # noqa: ARG002 (subclasses use it)
        """Samples per rank and micro-batch of the set `name`."""
        return self.batch_size if name != "train" or self._rows_of_cut is None else self._rows_of_cut

    def accumulated(self, name: str) -> int:
        """Micro-batches of an optimiser step of the set `name`; 1 of one that is not trained on."""
        return 1 if name != "train" or self.trainer is None else self.trainer.accumulate_grad_batches

    def train_batches(self, world_size: int) -> int:
        """Micro-batches per rank and epoch, without making a loader."""
        rows, accumulate = self.rows_per_step("train", world_size), self.accumulated("train")
        return len(EpochBatches(len(self.dataset("train")), rows, seed=self.seed, world_size=world_size, accumulate=accumulate))

    def loader(self, name: str, *, shuffle: bool = False) -> ResumableLoader[BatchT]:
        """Batches of one set for this rank."""
        rows = self.rows_per_step(name, self.world_size)
        return self.rank_loader(self.source(name), self.collate_fn(), rows, shuffle=shuffle, accumulate=self.accumulated(name))

    def train_dataloader(self) -> ResumableLoader[BatchT]:
        """Shuffled, sized, resumable."""
        return self.loader("train", shuffle=True)

    def val_dataloader(self) -> ResumableLoader[BatchT]:
        """In order."""
        return self.loader("val")
