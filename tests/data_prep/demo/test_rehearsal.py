"""A rehearsal: the whole pass on one's own photographs, without a key, and never mixed with what is paid for."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path

import pytest
import yaml
from PIL import ExifTags, Image

from data_prep.annotate.pipeline import annotate
from data_prep.cli import main
from data_prep.demo.config import DemoConfig
from data_prep.demo.rehearsal import REHEARSAL_SUFFIX, rehearse, rehearsed
from data_prep.demo.simulation.plausible import plausible_truth
from data_prep.export import ExportError, export_store, write_shards
from data_prep.settings import CONFIGS
from data_prep.sources import SourceItem
from data_prep.store.rehearsal import REHEARSAL_PARTY, RehearsalError, is_rehearsed
from data_prep.store.store import Store
from emo_lightning.core.records import Record
from tests.data_prep.conftest import picture


def photographs(root: Path, count: int = 8) -> Path:
    """A store of photographs with EXIF and without labels."""
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "SECRET"

    def one(number: int) -> SourceItem:
        out = io.BytesIO()
        Image.open(io.BytesIO(picture(number, (96, 64)))).save(out, "JPEG", exif=exif)
        return SourceItem(f"photo {number}.jpg", out.getvalue(), "jpg", 96, 64, "mine", licence="CC-BY-4.0")

    with Store(root, write=True) as store:
        store.import_items(map(one, range(count)))
    return root


def outcomes(root: Path) -> list[tuple[str, Record]]:
    with Store(root, write=False) as store:
        return [(row.state, Record.from_json(row.record, item.id)) for item, row in store.ledger.outcomes()]


def test_every_step_runs_without_a_key_and_the_bill_is_that_of_the_true_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("OPENAI_API_KEY", "GEMINI_API_KEY", "EMO_SIMULATED_KEY"):
        monkeypatch.delenv(name, raising=False)
    root = photographs(tmp_path / "store")
    config = str(CONFIGS / "api_only.yaml")  # one model annotates and criticises
    assert main(["annotate", str(root), "--config", config, "--rehearse"]) == 0
    said = capsys.readouterr().out
    place = root.with_name("store" + REHEARSAL_SUFFIX)
    assert f"rehearsal in {place}: every answer was made up on this machine; nothing was sent, nothing was paid" in said
    bill = said.partition("the bill of the true pass:\n")[2]
    assert main(["annotate", str(root), "--config", config, "--estimate"]) == 0
    assert bill == capsys.readouterr().out, "as the estimate of the real store says it"
    found = outcomes(place)
    assert len(found) == 8
    assert sum(state == "valid" for state, _ in found) >= 4
    for state, record in found:
        assert is_rehearsed(record)
        assert {row["model"] for row in record.provenance["said"]} <= {"gpt-4o-2024-11-20", "gemini-2.5-pro"}  # type: ignore[attr-defined]
        if state == "valid":
            assert record.description is not None
            assert "(rehearsal)" in record.description
    with Store(root, write=False) as store:
        assert store.ledger.call_totals() == []
        assert store.ledger.outcome_counts()["pending"] == 8
    with Store(place, write=False) as store:
        assert {row[0] for row in store.ledger.read("SELECT DISTINCT party FROM calls")} == {REHEARSAL_PARTY}
    assert main(["annotate", str(root), "--config", config, "--rehearse"]) == 0
    assert "8 done before" in capsys.readouterr().out, "a rehearsal goes on where it was"
    assert main(["status", str(place)]) == 0
    assert capsys.readouterr().out.startswith("a rehearsal: all answers are made up")
    assert main(["annotate", str(root), "--rehearse", "--budget", "5"]) == 2
    assert "--budget" in capsys.readouterr().err, "nothing is spent, so there is no budget"


def test_it_is_refused_wherever_it_could_be_taken_for_real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = photographs(tmp_path / "store", 3)
    config = DemoConfig.load(CONFIGS / "api_only.yaml")
    done = rehearse(root, config)
    assert done.grounded, "boxes come from regions that were made up with the answers"
    with (
        Store(done.store, write=False) as store,
        pytest.raises(RehearsalError, match=r"store-rehearsal: the store of a rehearsal .* it is not exported"),
    ):
        export_store(store, tmp_path / "out", "toy")
    record = outcomes(done.store)[0][1].model_copy(update={"split": "train"})
    with pytest.raises(ExportError, match="is of a rehearsal, whose answers are made up"):
        write_shards([(record, b"", "jpg")], tmp_path / "out", "toy")
    for name in ("OPENAI_API_KEY", "GEMINI_API_KEY"):
        monkeypatch.setenv(name, "sk-any")
    with Store(done.store, write=True) as store, pytest.raises(RehearsalError, match="nothing is paid for there"):
        asyncio.run(annotate(store, config))
    with Store(root, write=True) as store, pytest.raises(RehearsalError, match="this is no store of a rehearsal"):
        asyncio.run(annotate(store, rehearsed(config, "http://127.0.0.1:9/v1")))
    with pytest.raises(RehearsalError, match="rehearse on the store that it was made of"):
        rehearse(done.store, config)


def test_the_place_of_a_rehearsal_is_not_taken_from_another_store(tmp_path: Path) -> None:
    root = photographs(tmp_path / "store", 2)
    photographs(tmp_path / ("store" + REHEARSAL_SUFFIX), 2)
    with pytest.raises(RehearsalError, match="is no store of a rehearsal, and would be taken for one"):
        rehearse(root, DemoConfig.load(CONFIGS / "api_only.yaml"))
    with Store(tmp_path / "empty", write=True):
        pass
    with pytest.raises(RehearsalError, match="holds no image to rehearse on"):
        rehearse(tmp_path / "empty", DemoConfig.load(CONFIGS / "api_only.yaml"))


def test_what_runs_on_this_machine_is_left_out_and_voters_vote(tmp_path: Path) -> None:
    config = yaml.safe_load((CONFIGS / "default.yaml").read_text())
    config["annotators"][-1] = {"name": "emovit", "backend": "local", "path": "emovit", "weight": 0.4}
    config["prices"] = str(CONFIGS / "prices.yaml")
    (tmp_path / "pass.yaml").write_text(yaml.safe_dump(config))
    moved = rehearsed(DemoConfig.load(tmp_path / "pass.yaml"), "http://127.0.0.1:9/v1")
    assert moved.local == []
    assert {one.party_name for one in moved.endpoints} == {REHEARSAL_PARTY}
    root = photographs(tmp_path / "store", 2)
    assert rehearse(root, DemoConfig.load(CONFIGS / "default.yaml")).report.outcomes.total() == 2


def test_what_is_made_up_depends_on_the_picture_alone(tmp_path: Path) -> None:
    root = photographs(tmp_path / "store", 6)
    with Store(root, write=False) as store:
        items = list(store.ledger.items())
        first, again = ([plausible_truth(item, store.image(item.sha256, item.extension)) for item in items] for _ in range(2))
    assert first == again
    assert len({record.background for record in first}) > 1
    assert all(abs(sum((record.emotion_scores or {}).values()) - 1) < 1e-3 for record in first)
