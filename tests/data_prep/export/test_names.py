"""What names files holds no path, and what others wrote is text in the card."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_prep.export import ExportError, write_shards
from data_prep.sources import SourceError, open_source
from data_prep.store.rows import item_id
from emo_lightning.core.records import Record

PATHS = ["../x", "a/b", "a\\b", "..", "", "a\nb", "a\x1b[31m", "a\u202eb", "x" * 300]


@pytest.mark.parametrize("name", PATHS)
def test_names_of_exports_splits_keys_and_sources_lead_nowhere(
    name: str, tmp_path: Path, toys: list[tuple[Record, bytes]]
) -> None:
    out = tmp_path / "out"
    record, data = toys[0]
    with pytest.raises(ExportError, match="cannot begin the names of files"):
        write_shards([(record, data, "png")], out, name)
    for field in ("split", "id"):
        # Not validated: a record that other code made.
        with pytest.raises(ExportError, match="cannot"):
            write_shards([(record.model_copy(update={field: name}), data, "png")], out, "toy")
    with pytest.raises(SourceError, match="--name"):
        open_source("folder", source_name=name)
    assert {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*")} <= {"out"}


@pytest.mark.parametrize("key", [*PATHS, "folder-" + "x" * 500])
def test_ids_of_any_key_and_source_are_keys_of_a_tar(key: str) -> None:
    for source in ("folder", key or "x"):
        assert set(item_id(source, key)) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
        assert len(item_id(source, key)) <= 200


def test_licences_and_sources_are_text_in_the_card(tmp_path: Path, toys: list[tuple[Record, bytes]]) -> None:
    licence = "CC\n\n# Free\n<script>alert(1)</script> | [x](http://evil.test) `a` *b* _c_ \x1b[31m\u202e" + "y" * 500
    given = [(record.model_copy(update={"provenance": {"licence": licence}}), data, "png") for record, data in toys]
    write_shards(given, tmp_path, "toy")
    card = (tmp_path / "README.md").read_text()
    row = next(line for line in card.splitlines() if line.startswith("| CC "))
    assert row.startswith(r"| CC \# Free &lt;script\>alert(1)&lt;/script\> \| \[x\](http://evil.test) \`a\` \*b\* \_c\_")
    assert len(row) < 300
    assert "<script>" not in card
    assert "\x1b" not in card
    assert "\u202e" not in card
