"""Lightning's `metrics.csv`, which a run folder may bring from anywhere."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path

from emo_lightning.core.errors import InputError, UserError
from emo_lightning.core.foreign import read_capped

_MAX_BYTES = 256 << 20
_MOST_COLUMNS = 1000


def logged_rows(path: Path, error: type[UserError] = InputError) -> Iterator[tuple[str, dict[str, str]]]:
    """The rows of a table that a logger has written.

    Args:
        path: CSV in UTF-8, with a header.
        error: what is raised.

    Yields:
        (`FILE:LINE`, cells by column; what a short row lacks is empty).

    Raises:
        MissingFileError: no such file.
        UserError: of the type `error`: it cannot be read, is not UTF-8, or is no table.
    """
    data = read_capped(path, _MAX_BYTES, error)
    try:
        reader = csv.reader(io.StringIO(data.decode(), newline=""), strict=True)
    except UnicodeDecodeError as failure:
        msg = f"{path}: not UTF-8: {failure}"
        raise error(msg) from None
    names: list[str] | None = None
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as failure:
            msg = f"{path}:{reader.line_num}: not a table: {failure}"
            raise error(msg) from None
        if cells is None:
            return
        if names is None:
            names = cells
            if len(names) > _MOST_COLUMNS:
                msg = f"{path}: {len(names):,} columns; at most {_MOST_COLUMNS:,} are read"
                raise error(msg)
        elif len(cells) > len(names):
            msg = f"{path}:{reader.line_num}: {len(cells)} cells; the header has {len(names)}"
            raise error(msg)
        elif cells:
            yield f"{path}:{reader.line_num}", dict.fromkeys(names, "") | dict(zip(names, cells, strict=False))


def start_of(path: Path) -> int:
    """The number of the start that has logged `version_N/metrics.csv`: one that was killed goes on in a new folder; -1 of another path."""
    found = re.fullmatch("version_([0-9]{1,9})", path.parent.name)
    return -1 if found is None else int(found[1])
