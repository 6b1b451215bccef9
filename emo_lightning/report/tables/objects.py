"""Any JSON object as tables, for stages that the report knows nothing of."""

from __future__ import annotations

from collections.abc import Mapping

from emo_lightning.core.tables.table import Cell, Result, Table, columns

_NANO = {
    "nano_dollars": "US dollars",
    "cost_nano": "cost, US dollars",
    "nano_dollars_per_valid_record": "US dollars per valid record",
}
"""Keys of amounts that are counted in whole nano-dollars, and what the reader is shown."""


def object_tables(stage: str, found: Result) -> list[Table]:
    """Its values in one table, and a table for every part that is an object, with a column for every key of theirs.

    Args:
        stage: in whose folder the object was found; the first table is called by it.
        found: the object.
    """
    flat = {
        key: value
        for key, value in found.items()
        if not isinstance(value, Mapping) and not (key == "cost_nano" and "cost_usd" in found)
    }
    parts = {key: value for key, value in found.items() if isinstance(value, Mapping) and value}
    tables = [_pairs(f"object/{stage}", f"{stage}, in all", flat)] if flat else []
    for key, part in parts.items():
        if not all(isinstance(inner, Mapping) for inner in part.values()):
            tables.append(_pairs(f"object/{key}", key, part))
            continue
        names = list(dict.fromkeys(name for inner in part.values() for name in inner))
        rows = [[_words(name), *(_plain(inner.get(column), column) for column in names)] for name, inner in part.items()]
        shown = columns(("name", ""), *((column, _words(column)) for column in names))
        tables.append(Table(f"object/{key}", _title(key), shown, rows, row_keys=list(map(str, part)), name=key))
    return tables


def _pairs(table_key: str, name: str, part: Mapping[str, object]) -> Table:
    rows: list[list[Cell]] = [[_words(key), _plain(value, key)] for key, value in part.items()]
    return Table(table_key, _title(name), columns(("name", ""), "value"), rows, row_keys=list(map(str, part)), name=name)


def _plain(value: object, key: str = "") -> Cell:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if key in _NANO and isinstance(value, int):
        return f"{value / 1e9:.4f}"
    if isinstance(value, float):
        return f"{value:.6g}"
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, Mapping):
        return ", ".join(f"{_words(k)} {_plain(v)}" for k, v in value.items()) or None
    if isinstance(value, list | tuple):
        return ", ".join(str(_plain(v)) for v in value) or None
    msg = f"{key!r}: {value!r} is nothing that JSON holds"
    raise TypeError(msg)


def _words(key: str) -> str:
    return _NANO.get(str(key), str(key).replace("_", " "))


def _title(key: str) -> str:
    words = _words(key)
    return words[:1].upper() + words[1:]
