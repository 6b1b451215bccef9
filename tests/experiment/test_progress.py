"""A training in a pipe or a log file writes a line of progress now and then, not one for every batch."""

from __future__ import annotations

from lightning.pytorch.callbacks import TQDMProgressBar

from emo_lightning.experiment.execution import _quiet_bar


def test_a_bar_is_seldom_refreshed_where_there_is_no_terminal() -> None:
    found = _quiet_bar({"callbacks": [{"class_path": "lightning.pytorch.callbacks.EarlyStopping"}]})["callbacks"]
    assert isinstance(found, list)
    assert isinstance(found[0], TQDMProgressBar)
    assert found[0].refresh_rate == 100


def test_a_bar_of_the_settings_or_none_stays() -> None:
    assert _quiet_bar({"enable_progress_bar": False}) == {}
    assert _quiet_bar({"callbacks": {"class_path": "lightning.pytorch.callbacks.RichProgressBar"}}) == {}
    assert _quiet_bar({"callbacks": ["TQDMProgressBar"]}) == {}
