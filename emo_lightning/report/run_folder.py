"""A run directory as the report finds it: its stages, their files, and what of them is missing or damaged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from emo_lightning.core.errors import InputError, MissingFileError, user_message
from emo_lightning.core.files import read_object, read_yaml
from emo_lightning.core.records import SchemaError
from emo_lightning.report.forms import Form, check_form

COMPLETE = "complete"
"""`status` in `stage.json` of a stage that is done; the page names every stage with another."""

STATUS_TEXTS = {"running": "was interrupted, or is still running", "cut short": "was cut short", "failed": "failed"}
"""What the page says of a stage that is not complete."""

StageObject: TypeAlias = dict[str, Any]
"""What a stage's JSON or YAML holds: an object of whatever the stage has written."""

_T = TypeVar("_T")


@dataclass
class StageFolder:
    """A stage directory."""

    name: str
    path: Path
    info: StageObject = field(default_factory=dict)
    """`stage.json`."""
    config: str | None = None
    """`config.yaml` as it stands there."""
    settings: StageObject = field(default_factory=dict)
    """`config.yaml`, parsed."""

    @property
    def kind(self) -> str | None:
        """As registered in `experiment.kinds.STAGE_KINDS`, or a kind that this version does not know."""
        kind = self.info.get("kind")
        return kind if isinstance(kind, str) else None

    def setting(self, *keys: str) -> object:
        """What stands in `config.yaml` under keys inside one another, or None: a stranger's settings may have any shape."""
        found: object = self.settings
        for key in keys:
            found = found.get(key) if isinstance(found, Mapping) else None
        return found

    def table(self, *keys: str) -> Mapping[object, object]:
        """As `setting`, for what is a mapping; empty where there is none."""
        found = self.setting(*keys)
        return found if isinstance(found, Mapping) else {}

    def own(self, name: str) -> Path:
        """A file of this stage, by its name in the stage's folder; errors as `own_file`."""
        return own_file(self.path.parent, self.path / name)


def listed(value: object) -> list[object]:
    """A setting that may be one value or a list of them, as a list."""
    return list(value) if isinstance(value, list | tuple) else [] if value is None else [value]


def is_own(run: Path, path: Path) -> bool:
    """Whether a path leads to a place inside the run's folder."""
    try:
        return path.resolve().is_relative_to(run.resolve())
    # What no file can be called, and links that lead around in a circle.
    except (ValueError, RuntimeError):
        return False


def own_file(run: Path, path: Path) -> Path:
    """The path, if it leads to a place inside the run's folder.

    Raises:
        SchemaError: it is absolute, climbs out, or is a link to elsewhere: a page would show what its maker could not read.
    """
    if not is_own(run, path):
        msg = f"{path}: lies outside the run's folder; a page shows files of its own run alone"
        raise SchemaError(msg)
    return path


class RunFolder:
    """Reads a run; one damaged file must not cost the page, so what cannot be read goes to `notes`.

    Args:
        path: `runs/NAME`, with one directory per stage.
        outputs: names of files that make a directory a stage even without `stage.json` and `config.yaml`.
        name: how the page calls the run; default is the directory's name.

    Raises:
        MissingFileError: there is no `path`.
        InputError: `path` is a file.
    """

    def __init__(self, path: Path, outputs: set[str], name: str | None = None) -> None:
        self.path = Path(path)
        if not self.path.exists():
            msg = f"{path}: no such run directory"
            raise MissingFileError(msg)
        if not self.path.is_dir():
            msg = f"{path}: a file; expected a run directory, runs/NAME"
            raise InputError(msg)
        self.name = name or self.path.resolve().name
        self.notes: list[str] = []
        experiment = self._experiment()
        home = experiment.get("dir")
        self.home = home.rstrip("/") if isinstance(home, str) and home.strip("/") else None
        found = (self._stage(folder) for folder in sorted(self.path.iterdir()) if self._may_be_stage(folder))
        self.stages = sorted(
            (
                s
                for s in found
                if (s.info or s.config or any((s.path / name).is_file() for name in outputs)) and self._is_of(experiment, s)
            ),
            key=lambda stage: (str(stage.info.get("started") or "~"), stage.name),
        )

    def note(self, text: str) -> None:
        """Say on the page what is missing or was skipped, once."""
        if text not in self.notes:
            self.notes.append(text)

    def attempt(self, path: Path, read: Callable[[], _T]) -> _T | None:
        """What `read` returns, or None and a note if the file cannot be used; a bug of ours is none of the file's, and is raised."""
        try:
            return read()
        except Exception as error:
            reason = user_message(error)
            if reason is None:
                raise
            self.note(f"{self.shown(path)} could not be shown: {reason.removeprefix(f'{path}: ')}")
            return None

    def read_object(self, path: Path, form: type[Form] = Form) -> StageObject:
        """A JSON object; numbers that are not finite become None, and a note counts them.

        Args:
            path: the file.
            form: what of it is needed; by default any object will do.

        Raises:
            SchemaError: not JSON, no object, or not of that form.
        """
        lost: list[str] = []
        found = read_object(own_file(self.path, path), lost.append)
        if lost:
            self.note(
                f"{self.shown(path)} holds {len(lost)} numbers that are not finite ({lost[0]}); they are shown as missing"
            )
        check_form(found, form, path)
        return found

    def shown(self, path: Path) -> str:
        """A path as the page names it: relative to the run where it lies inside."""
        return str(path.relative_to(self.path)) if path.is_relative_to(self.path) else str(path)

    def located(self, text: str) -> Path:
        """Where a path of a stage's settings is now: a run may have been moved or copied since it was made."""
        if self.home and (text == self.home or text.startswith(self.home + "/")):
            return self.path / text[len(self.home) :].lstrip("/")
        return Path(text)

    def owner(self, text: str) -> StageFolder | None:
        """The stage in whose folder a path of the settings lies."""
        located = self.located(text)
        return next((s for s in self.stages if located == s.path or located.is_relative_to(s.path)), None)

    def unfinished(self) -> list[str]:
        """A note for every stage that is not complete; the one that writes the page is still running while it does."""
        return [
            f"stage {stage.name!r} {STATUS_TEXTS.get(str(stage.info.get('status')), 'has no status')}; the same command goes on there"
            for stage in self.stages
            if stage.info and stage.info.get("status") != COMPLETE and stage.kind != "report"
        ]

    def _experiment(self) -> StageObject:
        """What the run was asked for last; nothing where that is not said, or cannot be read."""
        path = self.path / "experiment.yaml"
        if not path.is_file():
            return {}
        return self.attempt(path, lambda: read_yaml(own_file(self.path, path), SchemaError)) or {}

    def _is_of(self, experiment: StageObject, stage: StageFolder) -> bool:
        """Whether a folder is of a stage that the experiment still has; one that is not is said to be left out."""
        named = experiment.get("stages")
        if not isinstance(named, Mapping) or not named or stage.name in named:
            return True
        self.note(f"{stage.name}: left out, as the experiment has no stage of that name (any more)")
        return False

    @staticmethod
    def _may_be_stage(folder: Path) -> bool:
        return folder.is_dir() and not folder.name.startswith(".")

    def _stage(self, folder: Path) -> StageFolder:
        stage = StageFolder(folder.name, folder)
        if (path := folder / "stage.json").is_file():
            stage.info = self.attempt(path, lambda: self.read_object(path)) or {}
        if (config := folder / "config.yaml").is_file():
            stage.config = self.attempt(
                config, lambda: own_file(self.path, config).read_text(encoding="utf-8", errors="replace")
            )
            stage.settings = self.attempt(config, lambda: read_yaml(own_file(self.path, config), SchemaError)) or {}
        return stage
