"""`emo push` and the way back, against a stand-in of the hub's HTTP API on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sentence_transformers import SentenceTransformer

from emo_lightning.cli import main
from emo_lightning.core.errors import UserError
from emo_lightning.core.model_folders import locate, weights_hash
from emo_lightning.inference.bundle import find_bundle, read_bundle
from emo_lightning.inference.folder import write_folder
from emo_lightning.inference.model import EmotionModel
from tests.commands.hub import Hub, hub_served


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub_served(monkeypatch, tmp_path) as found:
        yield found


@pytest.fixture(scope="module")
def folder(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("push") / "folder"
    write_folder(read_bundle(bundle), out, card="---\nlibrary_name: emo-lightning\n---\n# A model\n")
    return out


def test_what_was_pushed_is_loaded_by_its_id(
    hub: Hub, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["push", str(folder), "--repo", "ada/tiny", "--private"]
    assert main([*command, "--dry-run"]) == 0
    said, warned = capsys.readouterr()
    assert "model.safetensors" in said
    assert f"would go to {hub.url}/ada/tiny (private, where it is new; licence: none); nothing was sent" in said
    assert "README.md names no licence, so nobody may use the model; emo export --licence ID writes one" in warned
    assert hub.requests == []

    assert main(command) == 0
    assert f"{hub.url}/ada/tiny/commit/" in capsys.readouterr().out
    expected = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert hub.files["ada/tiny"] == expected
    assert hub.private["ada/tiny"]

    picture = np.full((60, 60, 3), 90, np.uint8)
    found = EmotionModel.from_pretrained("ada/tiny", "cpu")
    assert torch.equal(found.embed(picture), EmotionModel(folder, "cpu").embed(picture))
    assert found.folder.is_relative_to(tmp_path / "cache")
    sentences = SentenceTransformer("ada/tiny", trust_remote_code=True, device="cpu")
    image = Image.fromarray(picture)
    assert np.abs(sentences.encode([image]) - found.embed(image).numpy()).max() <= 1e-6
    with pytest.raises(UserError, match="ada/none: no folder of that name, and the hub does not give it"):
        EmotionModel.from_pretrained("ada/none", "cpu")


def test_wherever_a_model_is_asked_for_its_folder_or_id_is_taken(hub: Hub, folder: Path, bundle: Path, tiny_qwen: Path) -> None:
    """`emo predict` and all that read a backbone: a whole model stands for its backbone, a plain one for itself."""
    assert main(["push", str(folder), "--repo", "ada/whole"]) == 0
    hub.files["ada/plain"] = {name: data for name, data in hub.files["ada/whole"].items() if name != "emo.json"}
    published = find_bundle("ada/whole")
    assert published is not None
    assert (weights_hash(published.backbone), published.questions) == (weights_hash(str(folder)), ["attributes", "emotion"])
    assert (find_bundle("ada/plain"), find_bundle("ada/nothing"), find_bundle(str(tiny_qwen))) == (None, None, None)
    assert find_bundle(str(bundle)) == read_bundle(bundle)
    # Once it is in the cache, an id stands for its backbone like any folder.
    assert locate("ada/whole") == ("ada/whole", None)
    assert weights_hash("ada/whole") == weights_hash(str(folder))
    assert locate(str(bundle)) == locate(read_bundle(bundle).backbone)
    assert locate(str(folder)) == (str(folder), None)


def test_what_the_hub_refuses_is_one_line(hub: Hub, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hub.refuse = True
    assert main(["push", str(folder), "--repo", "bob/tiny"]) == 2
    error = capsys.readouterr().err
    assert f"{hub.url}/bob/tiny" in error
    assert "403" in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("given", "repo", "message"),
    [
        ("FOLDER", "tiny", "--repo tiny: expected OWNER/NAME"),
        ("FOLDER", "ada/ti ny", "--repo ada/ti ny: Repo id must"),
        ("FOLDER/head", "ada/tiny", "has no emo.json or no README.md"),
        ("BUNDLE", "ada/tiny", "lies outside of it"),
    ],
)
def test_what_is_no_folder_of_ours_is_not_sent(
    given: str,
    repo: str,
    message: str,
    hub: Hub,
    folder: Path,
    bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if given == "BUNDLE":
        (tmp_path / "emo.json").write_text((bundle / "emo.json").read_text().replace('"../', f'"{bundle.parent}/'))
        (tmp_path / "README.md").write_text("# A run's stage\n")
        given = str(tmp_path)
    assert main(["push", given.replace("FOLDER", str(folder)), "--repo", repo]) == 2
    assert message in capsys.readouterr().err
    assert hub.requests == []
