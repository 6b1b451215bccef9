from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from PIL import Image

from emo_lightning.analysis.references import References
from emo_lightning.core.records import Record
from emo_lightning.report.panel import write_panel
from emo_lightning.report.paper_figures import draw_comparison, pdf_pages
from tests.made import make_prediction, make_record

MakeTar = Callable[[list[Record]], tuple[Path, list[Record]]]


def test_figure_7_for_print(tmp_path: Path, make_tar: MakeTar) -> None:
    """What a model says is drawn as it is: no formula, no markup, and boxes of any kind."""
    tar, _ = make_tar(
        [make_record("a", [(10, 5, 60, 40)], emotion="awe", intensity=4, background="$x_{y", subject="dog " * 30)]
    )
    said = make_prediction("a", [(-20, 5, 400, 90), (30, 30, 20, 20)], emotion="Awe $^", intensity=7.5)
    panel = write_panel(tmp_path, {"ours": {"a": said}, "silent": {}}, References.load(str(tar)), 1, 0)
    assert (tmp_path / "panel.pdf").read_bytes()[:5] == b"%PDF-"
    width, height = Image.open(tmp_path / "print/00.png").size
    assert width > 1000
    assert width > height
    picture = Image.open(tmp_path / "panel/00.jpg")
    files = []
    for n, times in enumerate((1, 1, 2)):
        with pdf_pages(tmp_path / f"{n}.pdf") as pages:
            for _ in range(times):
                draw_comparison(picture, panel["items"][0], panel["arms"], tmp_path / str(n), pages)
        files.append((tmp_path / f"{n}.pdf").read_bytes())
    assert files[0] == files[1]
    assert files[2].count(b"/FontFile2") == files[0].count(b"/FontFile2") > 0, "a font stands in the file once"
    assert b"/Type0" in files[0], "text that can be searched and edited"
