"""Feature cache: the last layers' hidden states of a frozen backbone, extracted once, read many times.

A folder holds `part-RRRRR-NNNNN.safetensors` (rank, number) and, once a rank is done, `index-RRRRR.json`. A part is complete
in itself: keys, fingerprint and shape are in its header, so an interrupted extraction goes on where it stopped, even with
another number of ranks.
"""

from __future__ import annotations

import json
from collections import OrderedDict, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from emo_lightning.core.files import write_text
from emo_lightning.core.records import DIMENSIONS, EMOTIONS
from emo_lightning.data.batches import FeatureBatch
from emo_lightning.data.feature_parts import (
    FEATURES_HEADER_KEY,
    FORMAT_VERSION,
    RATINGS_TENSOR,
    FeatureError,
    FeatureSpec,
    PartIndex,
    complete_parts,
    feature_folder,
    index_name,
    read_header,
    read_part_index,
)
from emo_lightning.data.leaks import Origin
from emo_lightning.data.loader import SlotDataset
from emo_lightning.data.mapped_parts import PART_BYTES, checked_tensor, named_tensor, open_part, write_part
from emo_lightning.data.sampler import Slot
from emo_lightning.data.supervision import Supervision, collate_supervision

MAX_OPEN_FEATURE_PARTS = 4096
"""Parts that a process keeps mapped, which takes no open file: well under the usual limit of 65,530 maps."""
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass
class FeatureSample:
    """One image.

    Args:
        key: its id.
        hidden: (num_layers, tokens, hidden); index -1 is the last layer.
        labels: its supervision.
        filler: a repeated sample that only keeps ranks in step.
        origin: which image it is, for the check of leaks; None: its key alone.
    """

    key: str
    hidden: Tensor
    labels: Supervision
    filler: bool = False
    origin: Origin | None = None


class FeatureWriter:
    """Appends samples to a cache; use as a context manager, or call `close` at the end (a failure must not mark it complete).

    Each rank takes its own share of the samples and skips those in `done`.

    Args:
        directory: created if needed; all ranks share it.
        num_layers: layers per sample.
        hidden_size: width of the backbone.
        dtype: floating-point type on disk.
        fingerprint: identity of the backbone, its preprocessing and the data.
        earlier: the same as an earlier version made it; a cache that was begun under it is finished under it.
        rank: of this process.
        world_size: number of processes that write.
        made_of: what the features are of, part -> content hash or setting; heads and probes on them are held to it.
        computed: how the features come about (type of the weights, precision, attention); no part that was computed otherwise is gone on with.
        part_bytes: size of a part, about; what an interruption can lose.

    Raises:
        FeatureError: the folder holds parts of another cache.
    """

    def __init__(
        self,
        directory: str | Path,
        num_layers: int,
        hidden_size: int,
        dtype: torch.dtype,
        fingerprint: str,
        *,
        earlier: str | None = None,
        rank: int = 0,
        world_size: int = 1,
        made_of: Mapping[str, str] | None = None,
        computed: Mapping[str, str] | None = None,
        part_bytes: int = PART_BYTES,
    ) -> None:
        self.directory, self.dtype, self.part_bytes = Path(directory), dtype, part_bytes
        self.rank, self.world_size = rank, world_size
        kept_as = str(dtype).removeprefix("torch.")
        self.spec = FeatureSpec(fingerprint, num_layers, hidden_size, kept_as, dict(made_of or {}), dict(computed or {}))
        self.directory.mkdir(parents=True, exist_ok=True)
        self.parts: list[str] = []
        self.done: set[str] = set()
        for path in sorted(self.directory.glob("part-*.safetensors")):
            spec, origins = read_header(path)
            if not self.parts and spec.fingerprint == earlier:
                self.spec = replace(self.spec, fingerprint=earlier)
            self.spec.check(spec, path)
            self.parts.append(path.name)
            self.done.update(origin.id for origin in origins)
        for path in self.directory.glob("part-*.safetensors.tmp"):
            # Of this rank, before it was killed, and of ranks that are no more.
            number = int(path.name[5:10]) if path.name[5:10].isdigit() else -1
            if number == rank or (rank == 0 and number >= world_size):
                path.unlink(missing_ok=True)
        # Marks of completion from before are void: this rank's own, and those of runs with other numbers of ranks.
        for path in self.directory.glob("index-*.json"):
            if path.name == index_name(rank) or (rank == 0 and read_part_index(path)["world_size"] != world_size):
                path.unlink(missing_ok=True)
        numbers = [int(name[11:16]) for name in self.parts if name.startswith(f"part-{rank:05}-")]
        self._number = max(numbers, default=-1) + 1
        self._pending: list[FeatureSample] = []
        self._pending_bytes = 0

    def append(self, key: str, hidden: Tensor, labels: Supervision, origin: Origin | None = None) -> None:
        """Add one sample.

        Args:
            key: unique in the cache.
            hidden: (num_layers, tokens, hidden), real tokens only.
            labels: its supervision.
            origin: which image it is.

        Raises:
            FeatureError: the shape is wrong, a value is not finite (in the cache's dtype), or the key is there already.
        """
        layers, width = self.spec.num_layers, self.spec.hidden_size
        if hidden.ndim != 3 or hidden.shape[0] != layers or hidden.shape[2] != width or not hidden.shape[1]:
            msg = f"sample {key!r}: hidden has shape {list(hidden.shape)}; expected ({layers}, tokens, {width})"
            raise FeatureError(msg)
        if key in self.done:
            msg = f"sample {key!r} is in {self.directory} already"
            raise FeatureError(msg)
        hidden = hidden.detach().to("cpu", self.dtype)
        if not bool(hidden.isfinite().all()):
            msg = f"sample {key!r}: hidden states are not finite in {self.spec.dtype}"
            raise FeatureError(msg)
        self.done.add(key)
        self._pending.append(FeatureSample(key, hidden, labels, origin=origin))
        self._pending_bytes += hidden.nbytes
        if self._pending_bytes >= self.part_bytes:
            self.flush()

    def flush(self) -> None:
        """Write what is pending as one part."""
        if not self._pending:
            return
        samples, self._pending, self._pending_bytes = self._pending, [], 0
        lengths = torch.tensor([0] + [sample.hidden.shape[1] for sample in samples])
        labels = collate_supervision([s.key for s in samples], [s.labels for s in samples], [False] * len(samples))
        tensors = {
            # Tokens first: one sample is one contiguous stretch of the file.
            "hidden": torch.cat([sample.hidden.transpose(0, 1) for sample in samples]).contiguous(),
            "offsets": lengths.cumsum(0),
            "target": labels["target"],
            "emotion": labels["emotion"],
            "intensity": labels["intensity"],
        }
        if not bool(labels["affect"].isnan().all()):
            # Parts of images that nobody rated are as they were before there were ratings.
            tensors[RATINGS_TENSOR] = labels["affect"]
        origins = [(s.origin or Origin(s.key)).as_row() for s in samples]
        header = {"version": FORMAT_VERSION, **vars(self.spec), "keys": labels["key"], "origins": origins}
        name = f"part-{self.rank:05}-{self._number:05}.safetensors"
        write_part(self.directory / name, FEATURES_HEADER_KEY, header, tensors)
        self.parts.append(name)
        self._number += 1

    def close(self) -> None:
        """Write the last part and the rank's index: its share is complete."""
        self.flush()
        index: PartIndex = {"version": FORMAT_VERSION, "rank": self.rank, "world_size": self.world_size, "parts": self.parts}
        write_text(self.directory / index_name(self.rank), json.dumps(index), fsync=True)

    def __enter__(self) -> FeatureWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.flush()


_COLUMNS = np.dtype(
    [
        ("part", np.int64),
        ("start", np.int64),
        ("length", np.int64),
        ("target", np.float32, len(EMOTIONS)),
        ("emotion", np.int64),
        ("intensity", np.float32),
        ("affect", np.float32, len(DIMENSIONS)),
    ],
    align=True,
)


class Columns:
    """What a cache knows of its N samples without reading their features, in their order.

    Args:
        table: (N,) of `_COLUMNS`; what is known of a sample lies together, so that a shuffled batch finds it at one place each.
    """

    def __init__(self, table: NDArray[np.void]) -> None:
        self.table = table

    def take(self, rows: NDArray[np.int64]) -> Columns:
        """Those of some samples."""
        return Columns(self.table.take(rows))

    @property
    def parts(self) -> NDArray[np.int64]:
        """(N,) number of the part that holds each."""
        return self.table["part"]

    @property
    def starts(self) -> NDArray[np.int64]:
        """(N,) its first token there."""
        return self.table["start"]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(N,) how many tokens it has."""
        return self.table["length"]

    @property
    def target(self) -> Tensor:
        """(N, E), as in `LabelBatch`; so are the next three."""
        return torch.from_numpy(self.table["target"])

    @property
    def emotion(self) -> Tensor:
        """(N,)."""
        return torch.from_numpy(self.table["emotion"])

    @property
    def intensity(self) -> Tensor:
        """(N,)."""
        return torch.from_numpy(self.table["intensity"])

    @property
    def affect(self) -> Tensor:
        """(N, 3)."""
        return torch.from_numpy(self.table["affect"])


class FeatureCache(SlotDataset[FeatureSample]):
    """All ranks' samples, ordered by key, memory-mapped; indexed by int or by the sampler's `Slot`.

    Args:
        directory: of a complete cache, or a URL of one, of which a copy is kept here (`core.mirrors`).
        fingerprint: the expected one; None takes any, if all parts agree.

    Raises:
        FeatureError: a rank is not done, a part is missing, damaged or different, a key occurs twice, or there is no sample.
    """

    def __init__(self, directory: str | Path, fingerprint: str | None = None) -> None:
        self.directory = feature_folder(directory)
        names = complete_parts(self.directory)
        headers = [read_header(self.directory / name) for name in names]
        if not any(origins for _, origins in headers):
            msg = f"{self.directory}: the feature cache holds no sample"
            raise FeatureError(msg)
        self.spec = headers[0][0]
        for name, (spec, _) in zip(names, headers, strict=True):
            self.spec.check(spec, self.directory / name)
        if fingerprint is not None and fingerprint != self.spec.fingerprint:
            msg = f"{self.directory}: fingerprint is {self.spec.fingerprint!r}; expected {fingerprint!r}"
            raise FeatureError(msg)
        self._names = names
        rows = sorted((one.id, part, row) for part, (_, origins) in enumerate(headers) for row, one in enumerate(origins))
        for (key, part, _), (following, other, _) in pairwise(rows):
            if key == following:
                msg = f"{self.directory}: key {key!r} occurs twice, in {names[part]} and {names[other]}"
                raise FeatureError(msg)
        self.keys = [key for key, _, _ in rows]
        self.origins = [headers[part][1][row] for _, part, row in rows]
        """Which image each sample is, in their order."""
        self.columns = self._columns([part for _, part, _ in rows], [row for _, _, row in rows])
        self._open: OrderedDict[int, Tensor] = OrderedDict()

    @property
    def dtype(self) -> torch.dtype:
        """Of the features."""
        return _DTYPES[self.spec.dtype]

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, slot: int | Slot) -> FeatureSample:
        index, filler = (slot, False) if isinstance(slot, int) else (slot.index, slot.filler)
        start, tokens = int(self.columns.starts[index]), int(self.columns.lengths[index])
        hidden = self.part(int(self.columns.parts[index]))[start : start + tokens].transpose(0, 1)
        return FeatureSample(self.keys[index], hidden, self.labels(index), filler)

    def labels(self, index: int) -> Supervision:
        """The supervision of one sample, without reading its features."""
        columns = self.columns
        return Supervision(
            columns.target[index].tolist(),
            int(columns.emotion[index]),
            float(columns.intensity[index]),
            columns.affect[index].tolist(),
        )

    def part(self, number: int) -> Tensor:
        """(tokens, L, H) of all samples of one part, mapped, and compared with its checksum when it is opened.

        Raises:
            FeatureError: a byte of it is another one than was written.
        """
        if number not in self._open:
            path = self.directory / self._names[number]
            # Read once as a whole, in the order of the file: what follows finds it in memory.
            self._open[number] = checked_tensor(
                path, open_part(path, FeatureError), FEATURES_HEADER_KEY, "hidden", FeatureError
            )
            if len(self._open) > MAX_OPEN_FEATURE_PARTS:
                self._open.popitem(last=False)
        self._open.move_to_end(number)
        return self._open[number]

    def __getstate__(self) -> dict[str, object]:
        # Mapped files do not travel to worker processes; each opens its own.
        return self.__dict__ | {"_open": OrderedDict()}

    def _columns(self, parts: list[int], rows: list[int]) -> Columns:
        """What is known of each sample without its features; `parts` and `rows` say where each is."""
        found: dict[str, list[Tensor]] = defaultdict(list)
        for name in self._names:
            with open_part(self.directory / name, FeatureError) as file:
                offsets = named_tensor(self.directory / name, file, "offsets", FeatureError)
                found["start"].append(offsets[:-1])
                found["length"].append(offsets.diff())
                for label in ("target", "emotion", "intensity"):
                    found[label].append(named_tensor(self.directory / name, file, label, FeatureError))
                if RATINGS_TENSOR in file.keys():  # noqa: SIM118 - safetensors has no `in`
                    found["affect"].append(named_tensor(self.directory / name, file, RATINGS_TENSOR, FeatureError))
                else:
                    found["affect"].append(torch.full((len(found["intensity"][-1]), len(DIMENSIONS)), torch.nan))
        before = torch.tensor([0, *(len(one) for one in found["start"][:-1])]).cumsum(0)
        of_parts = torch.tensor(parts)
        order = before[of_parts] + torch.tensor(rows)
        table = np.empty(len(parts), dtype=_COLUMNS)
        table["part"] = parts
        for name, columns in found.items():
            table[name] = torch.cat(columns)[order]
        return Columns(table)


def collate_features(samples: Sequence[FeatureSample]) -> FeatureBatch:
    """Pad on the right."""
    layers, _, width = samples[0].hidden.shape
    longest = max(sample.hidden.shape[1] for sample in samples)
    hidden = samples[0].hidden.new_zeros(layers, len(samples), longest, width)
    mask = torch.zeros(len(samples), longest, dtype=torch.bool)
    for row, sample in enumerate(samples):
        tokens = sample.hidden.shape[1]
        hidden[:, row, :tokens] = sample.hidden
        mask[row, :tokens] = True
    labels = collate_supervision([s.key for s in samples], [s.labels for s in samples], [s.filler for s in samples])
    return {"hidden_states": hidden, "mask": mask, **labels}
