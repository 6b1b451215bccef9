from __future__ import annotations

from emo_lightning.core.tables.markdown import escaped, markdown, markdown_rows
from tests.core.tables.given import table


def test_markdown() -> None:
    text = markdown(table())
    lines = text.splitlines()
    assert lines[2] == "| arm\\_name | IoU ↑ | note \\| x |"
    assert lines[4] == "| \\[base\\] | 36.60 \\[34.00, 39.50\\] | 50 % {x}\\\\y |"
    assert lines[5] == "| ours | **73.50 ± 0.50** | – |"
    for expected in ("command emo demo --fast", "commit abc1234", "f" * 64, "e" * 64):
        assert expected in text


def test_rows_alone_stand_in_a_document_of_another() -> None:
    rows = markdown_rows(table())
    assert rows == markdown(table()).splitlines()[2:7]
    assert rows[1] == "| --- | ---: | --- |"


def test_a_price_is_no_formula() -> None:
    """GitHub sets what stands between two dollar signs as mathematics."""
    assert escaped("paid $1, $2 each") == "paid \\$1, \\$2 each"
