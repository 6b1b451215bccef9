"""`emo index`, as a person types it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from emo_lightning.cli import main
from emo_lightning.core.images import encoded
from emo_lightning.data.tar_index import TarIndex
from emo_lightning.inference.model import EmotionModel
from emo_lightning.inference.results import Unlike
from tests.search.planted import planted, write


@pytest.fixture(scope="module")
def built(world_tars: Path, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of 24 drawn images through a random model."""
    folder = tmp_path_factory.mktemp("built") / "index"
    assert main(["index", "build", str(world_tars / "*-train-*.tar"), "--model", str(bundle), "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An index of planted vectors."""
    write(folder := tmp_path_factory.mktemp("made"), planted(400))
    return str(folder)


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_picture_finds_itself_through_the_model_of_the_index(
    built: Path, world_tars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = TarIndex.open(str(world_tars / "*-train-*.tar"))
    (tmp_path / "photo.png").write_bytes(encoded(truth.image(5), "PNG"))
    page = tmp_path / "page.html"
    assert (
        main(["index", "search", str(tmp_path / "photo.png"), "--index", str(built), "--k", "3", "--json", "--html", str(page)])
        == 0
    )
    found = lines(capsys)
    assert [one["rank"] for one in found] == [1, 2, 3]
    assert (found[0]["id"], round(found[0]["cosine"], 4)) == (truth.id(5), 1.0)
    assert found[0]["background"] == truth.record(5).background
    html = page.read_text(encoding="utf-8")
    assert html.count("data:image/jpeg;base64,") == 4
    assert "http" not in re.sub(r"<html lang|charset|http-equiv", "", html).replace("base64", "")


def test_wishes_of_a_picture_take_its_words_from_the_model(
    built: Path, world_tars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = TarIndex.open(str(world_tars / "*-train-*.tar"))
    (tmp_path / "photo.png").write_bytes(encoded(truth.image(5), "PNG"))
    assert main(["index", "search", str(tmp_path / "photo.png"), "--index", str(built), "--like", "sadder", "--k", "3"]) == 0
    out = capsys.readouterr().out
    assert f"Like {tmp_path / 'photo.png'}, but sadder" in " ".join(out.split())
    assert "scene by the embedding alone" in out or "same background by its words" in out


def test_every_way_to_ask(made: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ask = ["index", "search", "--index", made, "--json"]
    assert main([*ask, "i6", "--k", "2"]) == 0
    assert [one["emotion"] for one in lines(capsys)] == ["fear", "fear"]
    assert main([*ask, "i6", "--like", "calmer", "--intensity", "low", "--where", "split=train"]) == 0
    found = lines(capsys)
    assert {(one["background"], one["intensity_level"], one["split"]) for one in found} == {("o'reilly street", "low", "train")}
    assert [one["emotion"] for one in found[:3]] == ["contentment"] * 3
    assert "fear" not in {one["emotion"] for one in found}
    assert main([*ask, "beach - ? - dog", "--emotion", "awe,anger", "--k", "5"]) == 0
    assert {one["emotion"] for one in lines(capsys)} <= {"awe", "anger"}
    assert main([*ask, "i0", "--to", "i7", "--steps", "5"]) == 0
    found = lines(capsys)
    assert (len(found), found[0]["id"], found[-1]["id"]) == (5, "i0", "i7")
    assert main([*ask, "i0", "--to", "i7", "--at", "1", "--k", "3"]) == 0
    found = lines(capsys)
    assert {one["emotion"] for one in found} == {"sadness"}
    assert not {"i0", "i7"} & {one["id"] for one in found}
    assert main([*ask[:-1], "i6", "--exact", "--html", str(tmp_path / "x.html")]) == 0
    out = capsys.readouterr().out
    assert "Nearest to i6" in out
    assert "fear" in out
    assert main([*ask[:-1], "i6", "--where", "id=nobody"]) == 0
    assert "nothing found; fewer conditions find more" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["i6", "--like", "calm"], "error: wish 'calm'; allowed: calmer"),
        (["i6", "--like", "calmer", "--to", "i7"], "--like and --to are two ways to go"),
        (["i6", "--to", "i7", "--at", "0.5", "--steps", "3"], "choose one"),
        (["i6", "--steps", "3"], "--steps is for a path (--to)"),
        (["i6", "--strength", "2"], "--strength is for a wish (--like)"),
        (["i6", "--emotion", "joy"], "emotion 'joy'; allowed: amusement"),
        (["i6", "--where", "x=1"], "no field 'x'; there are: id"),
        (["nobody.jpg"], "nobody.jpg: no such file, and"),
        (["volcano"], "'volcano': no image of"),
        (["i-6"], "has this id (did you mean i6?), and no file this name; taken as words: no image of"),
        (["i6", "--k", "0"], "--k 0: expected at least 1"),
    ],
)
def test_what_is_refused(made: str, given: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["index", "search", *given, "--index", made]) == 2
    assert message in capsys.readouterr().err


def test_an_unknown_option_is_refused_by_its_part(made: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["index", "search", "i6", "-k", "3", "--index", made])
    said = capsys.readouterr().err
    assert said == "error: emo index search: unrecognized arguments: -k 3; see emo index search --help\n"


def test_words_that_no_record_has_are_named_and_ids_stay_whole(made: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["index", "search", "a dog and a robot in Paris", "--index", made, "--k", "2"]) == 0
    assert "not used, as no record has them: robot, Paris" in " ".join(capsys.readouterr().out.split())
    assert main(["index", "search", "dog", "--index", made, "--k", "2"]) == 0
    assert "not used" not in capsys.readouterr().out


def test_a_picture_unlike_the_training_set_is_called_that(
    built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    photo, page = tmp_path / "photo.png", tmp_path / "page.html"
    Image.fromarray(pytest.importorskip("skimage.data").grass()).convert("RGB").save(photo)
    ask = ["index", "search", str(photo), "--index", str(built), "--k", "2"]
    assert main([*ask, "--json"]) == 0
    assert all("query_is_unlike" not in one for one in lines(capsys)), "this model does not know"
    # Its distance is measured elsewhere (`tests/inference/test_unlike.py`).
    monkeypatch.setattr(
        EmotionModel, "seen_at_once", lambda model, pictures: [(model.embed(pictures)[0].numpy(), Unlike(3.0, 2.0, 0.05))]
    )
    assert main([*ask, "--json"]) == 0
    said = capsys.readouterr()
    assert [json.loads(line)["query_is_unlike"] for line in said.out.splitlines()] == [True, True]
    assert "photo.png is unlike what the model of this index was trained on" in said.err
    assert main([*ask, "--html", str(page)]) == 0
    assert "is unlike what the model of this index" in " ".join(capsys.readouterr().out.split())
    assert "is unlike what the model of this index" in page.read_text(encoding="utf-8")


def test_the_page_of_a_path_has_each_end_once(made: str, tmp_path: Path) -> None:
    page = tmp_path / "way.html"
    assert main(["index", "search", "i0", "--to", "i7", "--steps", "5", "--index", made, "--html", str(page)]) == 0
    html = page.read_text(encoding="utf-8")
    titles = re.findall(r"<h2>(\d+)\. (\S+)</h2>", html)
    assert [number for number, _ in titles] == list("12345")
    assert [titles[0][1], titles[-1][1]] == ["i0", "i7"]
    assert html.count("<h2>") == 5
    assert html.count('<article class="asked">') == 2
    assert "lazy" not in html


def test_a_picture_needs_the_model_of_the_index(
    made: str, bundle: Path, world_tars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "photo.png"
    picture.write_bytes(encoded(TarIndex.open(str(world_tars / "*-test-*.tar")).image(0), "PNG"))
    assert main(["index", "search", str(picture), "--index", made, "--model", str(bundle)]) == 2
    assert "holds embeddings of model-a (weights aaaaaaaaaaaa), and" in capsys.readouterr().err
    assert main(["index", "search", str(picture), "--index", made]) == 2
    assert "model-a: the model that made" in capsys.readouterr().err


def test_embeddings_of_emo_embed_become_an_index(
    built: Path, bundle: Path, world_tars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tars = str(world_tars / "*-train-*.tar")
    assert main(["embed", tars, "--model", str(bundle), "--out", str(tmp_path / "des.parquet")]) == 0
    place = str(tmp_path / "index")
    assert main(["index", "build", str(tmp_path / "des.parquet"), "--records", tars, "--out", place]) == 0
    assert "24 images in" in capsys.readouterr().out
    names = [TarIndex.open(tars).id(row) for row in (0, 7)]
    for name in names:
        answers = []
        for where in (str(built), place):
            assert main(["index", "search", name, "--index", where, "--json"]) == 0
            answers.append([(one["id"], round(one["cosine"], 3), one["emotion"], one["member"]) for one in lines(capsys)])
        assert answers[0] == answers[1]
    assert main(["index", "info", place, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["images"], found["with_words"], found["with_thumbnail"], found["recall"]) == (24, 24, 24, None)
    assert main(["index", "info", str(built)]) == 0
    out = capsys.readouterr().out
    assert found["weights"][:12] in out
    assert "every image is compared" in out
    retrieval = tmp_path / "retrieval"
    assert (
        main(
            [
                "des",
                "retrieval",
                f"index={place}",
                f"table={tmp_path / 'des.parquet'}",
                "--references",
                tars,
                "--out",
                str(retrieval),
            ]
        )
        == 0
    )
    arms = json.loads((retrieval / "retrieval.json").read_text())["arms"]
    assert arms["index"] == arms["table"]


def test_builds_that_are_refused(world_tars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tars = str(world_tars / "*-test-*.tar")
    assert main(["index", "build", tars, "--out", str(tmp_path / "x")]) == 2
    assert "has no embedding there; --model FOLDER computes them" in capsys.readouterr().err
    assert main(["index", "build", tars, "--records", tars, "--out", str(tmp_path / "x")]) == 2
    assert "--records is for embeddings" in capsys.readouterr().err
    assert main(["index", "info", str(tmp_path / "x")]) == 2
    assert "no index there" in capsys.readouterr().err
