"""`emo predict` with a model behind an endpoint: real HTTP on loopback, the real client, the real ledger, then `emo eval`."""

from __future__ import annotations

import json
import subprocess
import sys
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, cast

import pytest

from emo_lightning.cli import main
from emo_lightning.core.records import Prediction, read_jsonl
from emo_lightning.data.chat import objective, prompt
from emo_lightning.data.tar_index import TarIndex
from tests.data_prep.serving import completion, send, server
from tests.made import as_json

GOOD = {"emotion": "Awe", "intensity": 4, "bbox_2d": [10, 20, 50, 60], "subject": "dog", "description": "d"}


@pytest.fixture
def tars(world_tars: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("KEY_UNDER_TEST", "k")
    return str(world_tars / "*-test-*.tar")


def command(url: str, tars: str, folder: Path, *options: str) -> list[str]:
    """Against the server, with a ledger of its own."""
    who = [
        "--base-url",
        url,
        "--model",
        "m",
        "--api-key-env",
        "KEY_UNDER_TEST",
        "--price",
        "1",
        "2",
        "--store",
        str(folder / "store"),
    ]
    return ["predict", *who, tars, "--out", str(folder / "p.jsonl"), *options]


def text_of(body: dict[str, Any]) -> str:
    """The words of a question."""
    return next(part["text"] for part in body["messages"][0]["content"] if part["type"] == "text")


def test_same_prompts_paid_once_and_scored(tars: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of eight images one reply is no JSON, one is refused by the endpoint, one by the model, one is cut."""
    index = TarIndex.open(tars)
    by_image: dict[str, int] = {}

    def answer(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        image = next(p["image_url"]["url"] for p in body["messages"][0]["content"] if p["type"] == "image_url")
        kind = by_image.setdefault(image, len(by_image))
        match kind:
            case 1:
                send(handler, 200, completion("I would rather describe it in words."))
            case 2:
                send(handler, 400, {"error": {"message": "this image is not allowed"}})
            case 3:
                refusal = completion("")
                refusal["choices"][0]["message"] = {"content": None, "refusal": "no people"}
                send(handler, 200, refusal)
            case 4:
                cut = completion("Let me look at the image")
                cut["choices"][0]["finish_reason"] = "length"
                send(handler, 200, cut)
            case _:
                send(handler, 200, completion("```json\n" + json.dumps(GOOD) + "\n```"))

    with server(answer) as (url, seen):
        assert main(command(url, tars, tmp_path)) == 0
        out = capsys.readouterr().out
        assert "16 questions, 0 answered in the ledger, the others cost at most $0.0" in out
        assert "no reply (refused): 4 questions, counted as wrong" in out
        assert {text_of(body) for body in seen} == {prompt(objective(o).keys) for o in ("attributes", "emotion")}
        assert all("response_format" not in body for body in seen)
        assert len(seen) == 16
        # Again: only what got no reply is asked; whatever was paid is not, not even the broken ones.
        assert main(command(url, tars, tmp_path)) == 0
        assert "14 answered in the ledger" in capsys.readouterr().out
        assert len(seen) == 18
    said = {p.id: p for p in read_jsonl(tmp_path / "p.jsonl", Prediction)}
    assert len(said) == 8
    lost = [p for p in said.values() if p.emotion is None]
    assert len(lost) == 4
    problems = [as_json(p.provenance)["replies"][0] for p in lost]
    assert sum(r["reply"] is None and "no reply (refused)" in r["problems"][0] for r in problems) == 2
    assert sum(r["reply"] is not None and "not JSON" in r["problems"][0] for r in problems) == 2
    good = next(p for p in said.values() if p.emotion)
    record = next(r for r in map(index.record, range(8)) if r.id == good.id)
    assert (good.sha256, good.split) == (record.sha256, record.split)
    assert good.objects[0].bbox == (10, 20, min(50, record.width), min(60, record.height))

    assert main(["eval", str(tmp_path / "p.jsonl"), tars, "--json"]) == 0
    arm = json.loads(capsys.readouterr().out)["arms"]["p"]
    assert arm["strict"]["parse_failure"] == 50
    assert arm["counts"]["unparsable_emotions"] == arm["counts"]["unparsable_intensities"] == 4
    why = {key: count for key, count in arm["counts"].items() if key.startswith("unreadable")}
    assert why == {"unreadable: cut off": 2, "unreadable: no JSON": 2, "unreadable: refused": 4}, (
        "two questions about each image"
    )
    assert main(["eval", str(tmp_path / "p.jsonl"), tars]) == 0
    shown = capsys.readouterr().out
    cells = [[cell.strip() for cell in line.split("│") if cell.strip()] for line in shown.splitlines()]
    assert ["refused", "4"] in cells
    assert ["all", "8"] in cells
    truth = [index.record(i).emotion for i in range(8)]
    right = sum(said[index.record(i).id].emotion == "Awe" and truth[i] == "awe" for i in range(8))
    assert arm["strict"]["emotion_acc"] == pytest.approx(100 * right / 8)
    assert sum(row[-1] for row in arm["confusion"]["counts"]) == 4


def test_config_file_coordinates_revision_and_blind(tars: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = {
        "model": "m",
        "base_url": "",
        "api_key_env": "KEY_UNDER_TEST",
        "price": {"input": 0, "output": 0},
        "boxes": "thousandths",
        "order": "yxyx",
        "parameters": {"max_tokens": 50, "seed": 1},
    }

    def answer(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        assert (body["max_tokens"], body["seed"]) == (50, 1)
        send(handler, 200, completion(json.dumps({"bbox_2d": [100, 200, 500, 600]})))

    def run(**changed: object) -> int:
        (tmp_path / "e.yaml").write_text(json.dumps(config | changed))
        out = tmp_path / f"{len(list(tmp_path.iterdir()))}.jsonl"
        blind = ["--blind"] if changed.get("revision") == "blind" else []
        line = ["predict", "--endpoint", str(tmp_path / "e.yaml"), tars, "--out", str(out), "--objectives", "grounding"]
        assert main([*line, "--store", str(tmp_path / "store"), *blind]) == 0
        for p in read_jsonl(out, Prediction):
            w, h = p.width, p.height
            assert w is not None
            assert h is not None
            assert p.objects[0].bbox == pytest.approx((0.2 * w, 0.1 * h, 0.6 * w, 0.5 * h))
        return len(seen)

    with server(answer) as (url, seen):
        config["base_url"] = url
        assert run() == 8
        assert run() == 8
        # Other weights under the same name are other replies.
        assert run(revision="2") == 16
        # Images of equal size are one question when they are not shown.
        index = TarIndex.open(tars)
        sizes = {(index.record(i).width, index.record(i).height) for i in range(8)}
        assert run(revision="blind") == 16 + len(sizes)


def test_resized_coordinates(tars: str) -> None:
    from emo_lightning.data.declared_boxes import DeclaredBoxes
    from emo_lightning.models.families.resize import resized_size

    codec = DeclaredBoxes("resized", min_pixels=784, max_pixels=7056)
    original = (151, 121)
    frame = codec.frame(original)
    assert frame == resized_size(*original, factor=28, min_pixels=784, max_pixels=7056) != original
    box = (20.0, 30.0, 90.0, 100.0)
    assert codec.decode(codec.encode(box, original, frame), original, frame) == pytest.approx(box, abs=1)
    for wrong in ({"boxes": "percent"}, {"boxes": "pixels", "order": "xywh"}):
        with pytest.raises(ValueError, match="allowed"):
            DeclaredBoxes(**cast(dict[str, Any], wrong))


def test_a_budget_stops_and_a_larger_one_goes_on(tars: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def answer(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        send(handler, 200, completion(json.dumps(GOOD)))

    with server(answer) as (url, seen):
        # Two requests fit: each costs 0.00012 at most 0.0019.
        assert main(command(url, tars, tmp_path, "--budget", "0.002")) == 3
        out = capsys.readouterr().out
        assert "the budget was reached" in out
        assert 0 < len(seen) < 16
        assert not (tmp_path / "p.jsonl").exists()
        assert main(command(url, tars, tmp_path, "--estimate")) == 0
        assert f"{len(seen)} answered in the ledger" in capsys.readouterr().out
        assert main(command(url, tars, tmp_path, "--budget", "1")) == 0
        assert len(seen) == 16
    assert len(list(read_jsonl(tmp_path / "p.jsonl", Prediction))) == 8


def test_errors_of_the_endpoint_are_one_line(
    tars: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        send(handler, 401, {"error": {"message": "wrong key"}})

    with server(answer) as (url, _):
        assert main(command(url, tars, tmp_path)) == 2
        error = capsys.readouterr().err
        assert "answers HTTP 401 for model 'm'" in error
        assert error.count("\n") == 1
        assert not (tmp_path / "p.jsonl").exists()
        line = command(url, tars, tmp_path)
        at = line.index("--price")
        assert main(line[:at] + line[at + 3 :]) == 2
        assert "no price for m" in capsys.readouterr().err
        monkeypatch.delenv("KEY_UNDER_TEST")
        assert main(line) == 2
        assert "KEY_UNDER_TEST" in capsys.readouterr().err
    (tmp_path / "e.yaml").write_text("model: m\nbase_url: http://x\napi_key_env: K\nboxes: percent\n")
    assert main(["predict", "--endpoint", str(tmp_path / "e.yaml"), tars, "--out", str(tmp_path / "p.jsonl")]) == 2
    assert "e.yaml: key 'boxes'" in capsys.readouterr().err


def test_asking_an_endpoint_needs_no_torch() -> None:
    """A machine that only asks need not wait for it: it costs 8 of 10 seconds of the start."""
    modules = (
        "emo_lightning.commands.predict, emo_lightning.commands.endpoint, emo_lightning.tasks.prediction_files, "
        "data_prep.provider.model_under_test"
    )
    code = f"import sys, {modules}"
    code += "; print([m for m in ('torch', 'lightning', 'transformers') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True).stdout == "[]\n"


def test_plain_http_to_another_machine_is_allowed_by_a_flag_alone(
    tars: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # The server of this test is taken for one of the network.
    monkeypatch.setattr("data_prep.provider.config.is_loopback", lambda url: False)
    with server(lambda handler, body: send(handler, 200, completion(json.dumps(GOOD)))) as (url, seen):
        assert main(command(url, tars, tmp_path, "--limit", "1")) == 2
        assert "unencrypted over a network; use https, or set `allow_http: true`" in capsys.readouterr().err
        assert seen == []
        assert main(command(url, tars, tmp_path, "--limit", "1", "--allow-http")) == 0
        assert len(seen) == 2
    assert main(["predict", "model", tars, "--out", str(tmp_path / "q.jsonl"), "--allow-http"]) == 2
    assert "--allow-http is for a model behind an endpoint" in capsys.readouterr().err
