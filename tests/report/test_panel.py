from __future__ import annotations

from emo_lightning.core.records import EMOTIONS
from emo_lightning.report.panel import choose
from tests.made import make_record

VOID = {"meta", "br", "img", "link", "input", "hr"}


def test_panel_choice_spreads_over_emotions() -> None:
    records = [make_record(str(n), emotion=EMOTIONS[0 if n < 90 else n % 8]) for n in range(100)]
    chosen = choose(records, 8, seed=0)
    assert len({records[i].emotion for i in chosen}) == 8
    assert chosen == choose(records, 8, seed=0)
    assert chosen != choose(records, 8, seed=1)
    assert len(choose(records, 500, seed=0)) == 100
