from __future__ import annotations

from emo_lightning.core.tables.markdown import markdown
from tests.core.tables.given import table


def test_markdown() -> None:
    text = markdown(table())
    lines = text.splitlines()
    assert lines[2] == "| arm\\_name | IoU ↑ | note \\| x |"
    assert lines[4] == "| \\[base\\] | 36.60 \\[34.00, 39.50\\] | 50 % {x}\\\\y |"
    assert lines[5] == "| ours | **73.50 ± 0.50** | – |"
    for expected in ("command emo demo --fast", "commit abc1234", "f" * 64, "e" * 64):
        assert expected in text
