"""Values that others have published on the suites, each with who scored it and where it stands: `published.yaml` beside this file."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from emo_lightning.core.files import parse_yaml
from emo_lightning.core.suites.item import SuiteName

PUBLISHED_VALUES_FILE = Path(__file__).with_name("published.yaml")


READ_AT_SOURCE = "at the source"
"""Of values that were read where they were published."""


class _Given(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PublishedModel(_Given):
    """One model of a table."""

    model: str
    values: dict[str, float]
    """By the keys of the suite's scorers; percent, correlations -1 to 1."""
    base: str | None = None
    """Model of the same table that it was fine-tuned from."""
    trained_on: tuple[str, ...] = ()
    """Tasks of the suite whose training sets it has seen."""


class PublishedTable(_Given):
    """What one source gives by one scorer."""

    suite: SuiteName
    scorer: str
    source: str
    replies: str
    """How they were drawn."""
    models: tuple[PublishedModel, ...]
    read: str = READ_AT_SOURCE
    """Where the values were read."""

    def gain(self, model: PublishedModel, key: str) -> float | None:
        """Its value minus its base's; None where one of them is not published."""
        base = next((one for one in self.models if one.model == model.base), None)
        if base is None or key not in model.values or key not in base.values:
            return None
        return model.values[key] - base.values[key]


@cache
def published(suite: SuiteName) -> tuple[PublishedTable, ...]:
    """All tables of a suite."""
    return tuple(table for table in _all() if table.suite == suite)


@cache
def _all() -> tuple[PublishedTable, ...]:
    found = parse_yaml(PUBLISHED_VALUES_FILE.read_text(encoding="utf-8"), PUBLISHED_VALUES_FILE)
    assert isinstance(found, list)
    try:
        return tuple(PublishedTable.model_validate(one) for one in found)
    except ValidationError as error:
        msg = f"{PUBLISHED_VALUES_FILE}: {error}"
        raise AssertionError(msg) from None
