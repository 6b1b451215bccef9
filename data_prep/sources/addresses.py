"""Lists of web addresses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from data_prep.sources.base import RefusedError, Repeat, SourceError, SourceRefusal
from data_prep.sources.index_files import as_object, json_records, open_text, optional_text, table_rows, text
from data_prep.sources.labels import SourceLabels, category
from data_prep.sources.places import RowCount
from data_prep.sources.tree import encodable
from emo_lightning.core.foreign import decode_json
from emo_lightning.core.text import shown
from emo_lightning.core.web.addresses import normal_url

_TABLES = (".csv", ".tsv", ".jsonl", ".ndjson")
_MAX_LINEAGE = 2**16


@dataclass(frozen=True)
class ListedUrl:
    """One address of a list."""

    url: str
    """Normalised, without a fragment."""
    file: str
    line: int | None
    licence: str | None = None
    labels: SourceLabels = field(default_factory=SourceLabels)


def read_list(path: Path) -> Iterator[ListedUrl | SourceRefusal]:
    """Addresses of a list, in its order.

    Args:
        path: `.csv`, `.tsv`, `.jsonl` or `.ndjson` with a column `url` and optionally `licence`, `emotion`, `query`, `lineage`; anything else is text
            with one address a line, where a line that begins with # is a comment. An emotion beside a query is what was searched
            for and no label; without a query it is what the list says of the image.

    Raises:
        SourceError: no such file, one that cannot be read, not UTF-8, no CSV, not JSON, or no column `url`.
    """
    if not path.is_file():
        msg = f"{path}: no such file"
        raise SourceError(msg)
    # A list that is text says nothing of an address that another line could contradict.
    against = _contradicted(path) if path.suffix.lower() in _TABLES else {}
    seen: set[str] = set()
    for listed in _rows(path):
        if isinstance(listed, ListedUrl):
            if listed.url in against:
                listed = SourceRefusal(
                    listed.file,
                    listed.line,
                    f"contradiction: another emotion or licence than line {against[listed.url]} or one before it has for {shown(listed.url)}",
                )
            elif listed.url in seen:
                listed = Repeat(listed.file, listed.line, f"repeated address: {shown(listed.url)}")
            else:
                seen.add(listed.url)
        yield listed


def _contradicted(path: Path) -> dict[str, int | None]:
    """Addresses of which two rows say different things, with the line of the first row that differs from an earlier one.

    What was searched for is no such thing: two queries may find one image.
    """
    first: dict[tuple[str, str], str] = {}
    against: dict[str, int | None] = {}
    for listed in _rows(path):
        if isinstance(listed, ListedUrl):
            # A row that names none says nothing against one that does.
            for what, says in (("licence", listed.licence), ("emotion", listed.labels.get("emotion"))):
                if says is not None and first.setdefault((listed.url, what), says) != says:
                    against.setdefault(listed.url, listed.line)
    return against


def _rows(path: Path) -> Iterator[ListedUrl | SourceRefusal]:
    match path.suffix.lower():
        case ending if ending in _TABLES[:2]:
            for place, row in table_rows(path, ("url",)):
                yield row if isinstance(row, SourceRefusal) else place.attempt(_listed, row, place.file, place.line)
        case ending if ending in _TABLES:
            for place, _, value in json_records(path):
                yield place.attempt(_listed, value, place.file, place.line)
        case _:
            with open_text(path) as file:
                rows = RowCount(path)
                for number, raw in enumerate(file, 1):
                    line = raw.strip()
                    if not encodable(line):
                        yield rows.place(str(path), number).refuse("not UTF-8")
                    elif line and not line.startswith("#"):
                        yield rows.place(str(path), number).attempt(_listed, {"url": line}, str(path), number)


def _listed(value: object, file: str, line: int | None) -> ListedUrl:
    row = as_object(value, "the row")
    url = normal_url(text(row, "url"))
    emotion, query = optional_text(row, "emotion"), optional_text(row, "query")
    labels: SourceLabels = {}
    search: dict[str, object] = {}
    if emotion is not None and query is None:
        labels = {"emotion": category(emotion), "emotion_raw": emotion.lower()}
    if query is not None:
        search["query"] = query
        if emotion is not None:
            search["intended_emotion"] = category(emotion)
    if lineage := row.get("lineage"):
        search["lineage"] = _lineage(lineage)
    if search:
        # Not under `labels["lineage"]`: that holds what an image was made from, and a found image was made from nothing of ours.
        labels["attributes"] = search
    return ListedUrl(url, file, line, optional_text(row, "licence"), labels)


def _lineage(value: object) -> object:
    """An object of a JSON list as it is; in a CSV it may be JSON as text, or a word."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            return decode_json(value, "lineage", SourceError, max_bytes=_MAX_LINEAGE)
        except SourceError as error:
            raise RefusedError(str(error)) from None
    return value
