"""Progress bars are for people at a terminal."""

from __future__ import annotations

import pytest

from emo_lightning.core.progress import progress_bars


def test_a_log_file_gets_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bars() as bars:
        task = bars.add_task("ask", total=2)
        bars.update(task, advance=2)
    assert bars.finished
    assert capsys.readouterr() == ("", "")
