"""A predictions file while it grows: append-only parts, one a rank, that survive a kill at any instant."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from emo_lightning.core.errors import InputError
from emo_lightning.core.file_names import about_file
from emo_lightning.core.files import read_object, write_json
from emo_lightning.core.records import Prediction, Record, read_jsonl, write_jsonl


class PredictionFiles:
    """`OUT.jsonl` in the making.

    Every rank appends whole lines to `OUT.jsonl.parts/RANK.jsonl`; a last line without its end is the mark of a kill and is asked
    again. `OUT.about.json` says who answered what, so that a file never mixes two models or two prompts.

    Args:
        out: the predictions file.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.folder = out.with_name(out.name + ".parts")
        self.about_file = out.with_name(about_file(out.name))

    def begin(self, about: Mapping[str, object], formerly: Mapping[str, object] | None = None) -> None:
        """Start or go on: gather what is there. For one rank alone, before the others read.

        A try that answered nothing binds nothing: it may have failed on what has been mended since.

        Args:
            about: what decides the answers; keys that begin with `_` are kept as a note and not compared.
            formerly: values of the same meaning that older versions wrote, by key.

        Raises:
            InputError: what is there was answered by another model, or to other questions.
        """
        if self.out.exists() or any(True for _ in self._begun()):
            self._check(about, formerly or {})
        write_json(self.about_file, dict(about))
        self.folder.mkdir(exist_ok=True)
        parts = sorted(self.folder.glob("[0-9]*.jsonl"))
        if parts:
            gathered = {p.id: p for p in self.answered()}
            for part in parts:
                gathered |= {p.id: p for p in _whole_lines(part)}
            write_jsonl(self._kept, gathered.values())
        for part in parts:
            part.unlink()

    def _begun(self) -> Iterator[Path]:
        """Parts with an answer in them."""
        for part in (self._kept, *sorted(self.folder.glob("[0-9]*.jsonl"))):
            if part.exists() and b"\n" in part.read_bytes():
                yield part

    def _check(self, about: Mapping[str, object], formerly: Mapping[str, object]) -> None:
        if not self.about_file.exists():
            if self.out.exists():
                msg = f"{self.out} exists, and nothing says who made it; choose another name, or remove it"
                raise InputError(msg)
            return
        old = read_object(self.about_file)
        for key in sorted({*old, *about}):
            if not key.startswith("_") and old.get(key) not in (about.get(key), formerly.get(key, about.get(key))):
                msg = (
                    f"{self.out} was begun with {key} {_short(old.get(key))}, now it is {_short(about.get(key))}; choose another name, "
                    f"or remove {self.out}, {self.about_file.name} and {self.folder.name}"
                )
                raise InputError(msg)

    @property
    def _kept(self) -> Path:
        return self.folder / "kept.jsonl"

    def answered(self) -> Iterable[Prediction]:
        """What an earlier run answered; of the finished file first, then of what was gathered."""
        for path in (self.out, self._kept):
            if path.exists():
                yield from read_jsonl(path, Prediction)

    def append(self, rank: int, predictions: Iterable[Prediction]) -> None:
        """Add to this rank's part."""
        lines = [json.dumps(p.model_dump(mode="json"), ensure_ascii=False) + "\n" for p in predictions]
        with open(self.folder / f"{rank:05d}.jsonl", "a", encoding="utf-8", errors="backslashreplace") as out:
            out.write("".join(lines))

    def finish(self) -> list[Prediction]:
        """Write the file, by id, and remove the parts. For one rank alone, after the others have ended."""
        parts = sorted(self.folder.glob("[0-9]*.jsonl"))
        gathered = {p.id: p for p in self.answered()}
        for part in parts:
            gathered |= {p.id: p for p in _whole_lines(part)}
        predictions = sorted(gathered.values(), key=lambda p: p.id)
        write_jsonl(self.out, predictions)
        for path in (*parts, self._kept):
            path.unlink(missing_ok=True)
        self.folder.rmdir()
        return predictions


def _whole_lines(part: Path) -> Iterable[Prediction]:
    for number, line in enumerate(part.read_bytes().split(b"\n")[:-1], 1):
        yield Prediction.from_json(line, f"{part}:{number}")


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"


def with_image_identity(prediction: Prediction, record: Record) -> Prediction:
    """The prediction with what names its image."""
    return prediction.model_copy(update={"source": record.source, "split": record.split, "sha256": record.sha256})


def summary_line(predictions: Iterable[Prediction]) -> str:
    """How many predictions, and how many of them have something that could not be read or no reply at all."""
    total = unreadable = silent = 0
    for prediction in predictions:
        found = prediction.provenance.get("replies", [])
        replies = [reply for reply in found if isinstance(reply, dict)] if isinstance(found, list) else []
        total += 1
        unreadable += any("problems" in reply and reply.get("reply") is not None for reply in replies)
        silent += any(reply.get("reply") is None for reply in replies)
    return f"{total} predictions, {unreadable} with something unreadable, {silent} without a reply to every question"
