"""`emo serve` as it is typed: what it prints, what it refuses, how it ends."""

from __future__ import annotations

import base64
import io
import os
import signal
import socket
import threading
from pathlib import Path

import httpx
import pytest
from openai import NotFoundError, OpenAI
from PIL import Image

from emo_lightning.cli import main
from emo_lightning.core.errors import InputError
from emo_lightning.inference.bundle import read_bundle, write_bundle
from emo_lightning.serve.settings import Limits
from tests.patience import PATIENCE, wait_until

SECRET = "a-secret-of-sixteen"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "nowhere: no such folder; expected the folder of an emotion model"),
        (["--token", "short"], "--token: expected 16 to 200 letters"),
        (["--token", "../../../../../../etc"], "--token: expected"),
        (["--token", SECRET, "--open"], "--token and --open: expected one of them"),
        (["--host", "192.0.2.1"], "--host 192.0.2.1 --port 0: Cannot assign requested address"),
        (["--port", "70000"], "--port 70000: expected at least 0, at most 65535"),
        (["--queue", "8"], "--queue 8: expected at least 32"),
        (["--wait-ms", "nan"], "--wait-ms nan: expected a finite number"),
    ],
)
def test_what_cannot_be_served_is_said_in_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", *(["--port", "0"] if "--port" not in words else []), *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_port_that_is_taken_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["serve", str(folder), "--port", str(taken.getsockname()[1])]) == 2
    assert "Address already in use; port 0 takes a free one" in capsys.readouterr().err


def test_limits_fit_each_other() -> None:
    with pytest.raises(InputError, match="expected at least 64"):
        Limits(batch_size=64, queue=63)


def test_the_model_of_a_run_is_called_by_both_names(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Every run's stage is called `model`; the client of OpenAI names the model that it asks."""
    stage = tmp_path / "runs" / "demo" / "model"
    stage.mkdir(parents=True)
    (stage.parent / "experiment.yaml").write_text("name: demo\n")
    write_bundle(stage, read_bundle(folder))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("EMO_SERVE_TOKEN", SECRET)
    Image.new("RGB", (64, 64), "teal").save(out := io.BytesIO(), "PNG")
    url = "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
    found: list[object] = []

    def up() -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/health", timeout=PATIENCE).status_code == 200
        except httpx.TransportError:
            return False

    def client() -> None:
        try:
            wait_until(up)
            asked = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=SECRET, max_retries=0, timeout=PATIENCE)
            (name,) = [one.id for one in asked.models.list()]
            found.extend((name, asked.models.retrieve(name).id, asked.embeddings.create(model=name, input=[url]).model))
            try:
                asked.embeddings.create(model="model", input=[url])
            except NotFoundError as error:
                found.append(error.code)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    asking = threading.Thread(target=client, daemon=True)
    asking.start()
    assert main(["serve", str(stage), "--port", str(port), "--device", "cpu"]) == 143
    asking.join()
    assert found == ["demo-model", "demo-model", "demo-model", "model_not_found"]
    assert capfd.readouterr().out.startswith("demo-model: embeddings of 32 numbers")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_what_was_asked_before_the_end_is_answered(
    number: signal.Signals,
    code: int,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The request waits in a batch when the signal comes."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("EMO_SERVE_TOKEN", SECRET)
    answers: list[httpx.Response] = []
    out = io.BytesIO()
    Image.new("RGB", (64, 64), "teal").save(out, "PNG")
    url = f"http://127.0.0.1:{port}/{SECRET}"

    def figures() -> str:
        try:
            return httpx.get(f"{url}/metrics", timeout=PATIENCE).text
        except httpx.TransportError:
            return ""

    def client() -> None:
        wait_until(lambda: bool(figures()))
        asking = threading.Thread(
            target=lambda: answers.append(
                httpx.post(f"{url}/v1/explain", content=out.getvalue(), headers={"Content-Type": "image/png"}, timeout=PATIENCE)
            )
        )
        asking.start()
        wait_until(lambda: "\nemo_waiting_pictures 1.0" in figures())
        os.kill(os.getpid(), number)
        asking.join()

    both = threading.Thread(target=client, daemon=True)
    both.start()
    ended = main(["serve", str(folder), "--port", str(port), "--wait-ms", "60000", "--max-new-tokens", "4", "--device", "cpu"])
    assert ended == code
    both.join()
    assert [one.status_code for one in answers] == [200]
    said = capfd.readouterr()
    assert f"open {url}/\n" in said.out
    assert f"API: base_url http://127.0.0.1:{port}/v1, api_key {SECRET}\n" in said.out
    assert said.err.splitlines()[-1] == f"ended by {number.name}"
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/health")
