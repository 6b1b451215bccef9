"""Where a number or a drawing came from: command, commit, config hash, and the manifests of the tars behind it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from emo_lightning.core.file_names import MANIFEST_FILE
from emo_lightning.core.fingerprints import content_sha256
from emo_lightning.core.shard_manifests import is_tar, tars_in
from emo_lightning.core.tables.provenance import Data, Provenance
from emo_lightning.report.run_folder import RunFolder, StageFolder


class Sources:
    """Answers, for every stage of a run, what its numbers came from; through the stages that it was made from."""

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self._data: dict[str, tuple[Data, ...]] = {}

    def of(self, stage: StageFolder) -> Provenance:
        """The provenance of a stage."""
        info = stage.info
        command = info.get("command")
        return Provenance(
            self.run.name,
            stage.name,
            " ".join(map(str, command)) if isinstance(command, list) else _text(command),
            _text(info.get("commit")),
            _text(info.get("config_sha256")),
            _text(info.get("started")),
            self.data(stage),
        )

    def data(self, stage: StageFolder) -> tuple[Data, ...]:
        """Every data set that the stage, or a stage whose files it reads, has read or made, in order of first mention."""
        if stage.name not in self._data:
            self._data[stage.name] = ()  # A stage that names its own folder, like one that logs there.
            # A stage that makes data, like `world`, answers with what it made.
            made = sorted(stage.path.glob(f"*/{MANIFEST_FILE}"))
            self._data[stage.name] = tuple(dict.fromkeys([*map(self._file, made), *self.behind(stage.settings, stage)]))
        return self._data[stage.name]

    def behind(self, settings: object, stage: StageFolder | None = None) -> tuple[Data, ...]:
        """The data sets behind every path in (a part of) a stage's settings."""
        found: dict[str, Data] = {}
        for text in _texts(settings):
            for data in self._named(stage, text):
                found.setdefault(data.path, data)
        return tuple(found.values())

    def _named(self, stage: StageFolder | None, text: str) -> Iterator[Data]:
        owner = self.run.owner(text)
        if owner is not None and owner is stage:
            return
        located = self.run.located(text)
        if is_tar(text) or (owner is None and _holds_tars(located)):
            yield from self._tars(text, located)
        elif owner is not None:
            if (located / MANIFEST_FILE).is_file():
                yield self._file(located / MANIFEST_FILE)
            yield from self.data(owner)
        elif text.endswith((".jsonl", ".parquet")):
            yield self._file(located) if located.is_file() else Data(text, None, "not there any more")

    def _tars(self, text: str, located: Path) -> Iterator[Data]:
        from emo_lightning.core.tar_scan import ShardError
        from emo_lightning.data.shard_list import list_shards

        try:
            shards = [shard.url for shard in list_shards(str(located) if "://" not in text else text)]
        except ShardError as error:
            yield Data(text, None, f"cannot be listed any more: {error}")
            return
        for folder in dict.fromkeys(str(Path(url).parent) if "://" not in url else url for url in shards):
            manifest = Path(folder) / MANIFEST_FILE
            if manifest.is_file():
                yield self._file(manifest)
            else:
                yield Data(text, None, f"{len(shards)} tars without a {MANIFEST_FILE} beside them")
                return

    def _file(self, path: Path) -> Data:
        return Data(self.run.shown(path), content_sha256(path))


def _text(value: object) -> str | None:
    """A value of `stage.json` that is to be a text; of any other type it is unknown."""
    return value if isinstance(value, str) else None


def _holds_tars(path: Path) -> bool:
    return path.is_dir() and ((path / MANIFEST_FILE).is_file() or bool(tars_in(path)))


def _texts(value: object) -> Iterator[str]:
    """Every text in a config that may be a path."""
    if isinstance(value, str):
        if "/" in value or value.endswith((".tar", ".jsonl", ".parquet")):
            yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)
