from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike
from PIL import Image
from scipy.spatial.distance import jensenshannon
from scipy.stats import spearmanr

from emo_lightning.analysis.des_space.distance import affective_distance
from emo_lightning.analysis.des_space.inputs import DesSet, load_arms, mean_interval
from emo_lightning.analysis.des_space.interpolation import draw_paths, interpolation
from emo_lightning.analysis.des_space.retrieval import retrieval
from emo_lightning.analysis.des_space.stability import Change, stability
from emo_lightning.analysis.references import References
from emo_lightning.core.records import EMOTIONS, Record, SchemaError, write_jsonl
from emo_lightning.data.embeddings import EmbeddingTable
from emo_lightning.report.page import read_page
from emo_lightning.stages import des_space as stages
from tests.made import as_json, make_record

MakeTar = Callable[[list[Record]], tuple[Path, list[Record]]]


def des_set(vectors: ArrayLike, **fields: Sequence[Any]) -> DesSet:
    """Images i00, i01, …; each field is one value per image."""
    rows = np.asarray(vectors, dtype=float)
    records = [make_record(f"i{n:03}", **{key: values[n] for key, values in fields.items()}) for n in range(len(rows))]
    return DesSet(rows, records, {})


def moods(count: int, seed: int = 0) -> list[dict[str, float]]:
    rows = np.random.default_rng(seed).dirichlet(np.full(8, 0.5), count)
    return [dict(zip(EMOTIONS, (row / row.sum()).tolist(), strict=True)) for row in rows]


# Retrieval


def test_retrieval_against_a_plain_count() -> None:
    rng = np.random.default_rng(0)
    vectors, emotions = rng.normal(size=(60, 5)), [EMOTIONS[i] for i in rng.integers(0, 3, 60)]
    attributes = (
        [f"a{i}" if i < 50 else None for i in range(25) for _ in range(2)] + [f"once{i}" for i in range(8)] + [None] * 2
    )
    found = as_json(retrieval(des_set(vectors, emotion=emotions, attribute=attributes), (1, 4)))
    cosine = vectors @ vectors.T / np.outer(*[np.linalg.norm(vectors, axis=1)] * 2)
    hits, relevant = {1: [], 4: []}, []  # type: ignore[var-annotated]
    for i in range(60):
        order = sorted((j for j in range(60) if j != i), key=lambda j: -cosine[i, j])
        relevant.append(sum(emotions[j] == emotions[i] for j in order))
        for k, values in hits.items():
            values.append(any(emotions[j] == emotions[i] for j in order[:k]))
    target = found["targets"]["emotion"]
    assert {k: target["recall"][str(k)]["value"] for k in hits} == pytest.approx({k: np.mean(v) for k, v in hits.items()})
    assert target["recall"]["1"]["value"] == target["precision"]["1"]["value"]
    chance = np.mean([1 - math.comb(59 - r, 4) / math.comb(59, 4) for r in relevant])
    assert target["recall"]["4"]["chance"] == pytest.approx(chance)
    attribute = found["targets"]["attribute"]
    assert (attribute["queries"], attribute["without_relevant"], attribute["without_label"]) == (50, 8, 2)
    assert found["targets"]["triplet"] == {"queries": 0, "without_relevant": 0, "without_label": 60}
    assert set(target["by_emotion"]) == {str(e) for e in set(emotions)}


def test_perfect_and_hopeless_retrieval() -> None:
    pairs = np.repeat(np.eye(6), 2, axis=0) + 0.01 * np.random.default_rng(1).normal(size=(12, 6))
    subjects = [f"s{i // 2}" for i in range(12)]
    assert as_json(retrieval(des_set(pairs, subject=subjects), (1,)))["targets"]["subject"]["recall"]["1"]["value"] == 1
    apart = [f"s{i % 6}" for i in range(12)]
    assert as_json(retrieval(des_set(pairs, subject=apart), (1,)))["targets"]["subject"]["recall"]["1"]["value"] == 0
    with pytest.raises(ValueError, match="k=12 with 12 images"):
        retrieval(des_set(pairs), (1, 12))


# Affective distance


def test_distance_agrees_with_scipy() -> None:
    vectors, felt = np.random.default_rng(2).normal(size=(40, 4)), moods(40)
    emotions = [max(mood, key=mood.__getitem__) for mood in felt]
    found = as_json(affective_distance(des_set(vectors, emotion=emotions, emotion_scores=felt), "euclidean", permutations=99))
    pairs = [(i, j) for i in range(40) for j in range(i)]
    near = [np.linalg.norm(vectors[i] - vectors[j]) for i, j in pairs]
    alike = [jensenshannon(list(felt[i].values()), list(felt[j].values()), 2) for i, j in pairs]
    part = found["distribution"]
    assert part["rho"] == pytest.approx(spearmanr(near, alike).statistic)
    same = [n for n, (i, j) in enumerate(pairs) if emotions[i] == emotions[j]]
    inside = spearmanr(np.array(near)[same], np.array(alike)[same]).statistic
    assert part["within_emotion_rho"] == pytest.approx(inside)
    different = [emotions[i] != emotions[j] for i, j in pairs]
    assert part["category_rho"] == pytest.approx(spearmanr(different, alike).statistic)
    assert part["p"] > 0.05, "the embedding knows nothing of the mood"
    deciles = [float(np.mean(some)) for some in np.array_split(np.sort(alike), 10)]
    assert [x for x, _ in part["bins"]] == pytest.approx(deciles)
    assert part["low"] < part["rho"] < part["high"]
    assert found["intensity"]["reason"] == "0 of 40 images have 'intensity'; expected at least 4"


def test_an_embedding_that_is_the_mood_has_rho_one() -> None:
    felt = moods(60, seed=3)
    strengths = [1 + i % 10 for i in range(60)]
    vectors = np.array(strengths, dtype=float)[:, None]
    found = as_json(
        affective_distance(des_set(vectors, emotion_scores=felt, intensity=strengths), "euclidean", permutations=99)
    )
    assert found["intensity"]["rho"] == pytest.approx(1)
    assert found["intensity"]["p"] == 0.01
    assert found["distribution"]["one_hot"] == 0
    assert (
        as_json(affective_distance(des_set(vectors, emotion_scores=felt), "euclidean", max_images=20))["distribution"]["images"]
        == 20
    )


def test_interval_of_rho_covers() -> None:
    """Over 60 worlds of 50 images whose true ρ a large world gives, the interval holds it about as often as it says."""

    def world(size: int, seed: int) -> DesSet:
        rng = np.random.default_rng(seed)
        level = rng.integers(1, 11, size)
        return des_set((level + 3 * rng.normal(size=size))[:, None], intensity=[int(v) for v in level])

    true = as_json(affective_distance(world(800, 999), "euclidean", permutations=1))["intensity"]["rho"]
    inside = 0
    for seed in range(60):
        part = as_json(affective_distance(world(50, seed), "euclidean", permutations=1, resamples=300, seed=seed))["intensity"]
        inside += part["low"] <= true <= part["high"]
    assert 50 <= inside <= 60


def test_distances_that_cannot_be_ranked() -> None:
    same = as_json(affective_distance(des_set(np.eye(5), intensity=[3] * 5)))
    assert "equally far" in same["intensity"]["reason"]
    flat = as_json(affective_distance(des_set(np.ones((5, 3)), intensity=[1, 2, 3, 4, 5])))
    assert flat["intensity"]["reason"] == "all 5 embeddings are equally far from each other"


# Interpolation


def line_world() -> DesSet:
    """Two moods that change evenly along a line of 101 images."""
    share = np.linspace(0, 1, 101)
    felt = [{EMOTIONS[0]: 1 - s, EMOTIONS[6]: s} for s in share.tolist()]
    emotions = [EMOTIONS[0] if s < 0.5 else EMOTIONS[6] for s in share]
    return des_set(np.stack([share, np.ones(101)], axis=1), emotion=emotions, emotion_scores=felt)


def test_an_even_way_is_monotone_and_smooth() -> None:
    found, paths = interpolation(line_world(), "euclidean", per_pair=12, steps=6, k=3)
    summary = as_json(found)
    assert summary["monotonicity"]["value"] == pytest.approx(1)
    assert summary["progress"]["value"] == pytest.approx(1, abs=0.1)
    assert abs(summary["monotonicity"]["chance"]) < 0.5
    for path in paths:
        assert np.diff(path.position).min() >= -1e-9
        assert path.a not in path.nearest
        assert path.b not in path.nearest
    # Ends near each other have steps of single images; over all the largest of five is not much above a fifth.
    assert 0.2 <= summary["largest_step"]["value"] < 0.45


def test_a_way_that_turns_back_is_not_monotone() -> None:
    """Between the two ends the moods stand in reverse: the neighbours begin like b and end like a."""
    share = np.linspace(0, 1, 101)
    share[1:-1] = share[1:-1][::-1]
    given = np.zeros((101, 8))
    given[:, 0], given[:, 6] = 1 - share, share
    vectors = np.stack([np.linspace(0, 1, 101), np.ones(101)], axis=1)
    (path,) = draw_paths(vectors, given, [(0, 100)], 6, 3, "euclidean")
    assert path.monotonicity == pytest.approx(-1)
    there_and_back = np.abs(np.linspace(-1, 1, 101))
    given[:, 0], given[:, 6] = there_and_back, 1 - there_and_back
    given[100] = np.eye(8)[6]
    (path,) = draw_paths(vectors, given, [(0, 100)], 11, 3, "euclidean")
    assert path.monotonicity == pytest.approx(0, abs=0.1)
    given[:] = given[0]
    given[100] = np.eye(8)[6]
    (path,) = draw_paths(vectors, given, [(0, 100)], 6, 3, "euclidean")
    assert path.monotonicity is path.largest_step is None


def test_paths_that_cannot_be_drawn() -> None:
    single = des_set(np.random.default_rng(0).normal(size=(20, 3)), emotion=["awe"] * 20)
    found, paths = interpolation(single)
    assert paths == []
    assert as_json(found)["reason"].startswith("20 images with 1 emotions (awe); expected at least two emotions")
    with pytest.raises(ValueError, match="steps=2"):
        interpolation(single, steps=2)
    felt = dict.fromkeys(EMOTIONS, 1 / 8)
    alike = des_set(np.random.default_rng(0).normal(size=(20, 3)), emotion=["awe", "fear"] * 10, emotion_scores=[felt] * 20)
    assert "nearly the same mood" in as_json(interpolation(alike)[0])["reason"]


# Stability


def mean_colour(images: Sequence[Image.Image], wording: str | None) -> tuple[np.ndarray, None]:
    """A real embedding that crop and size hardly move, and that a wording does not reach."""
    return np.array([np.asarray(image, dtype=float).mean(axis=(0, 1)) for image in images]), None


def blotches(count: int) -> list[Image.Image]:
    rng = np.random.default_rng(4)
    small = rng.integers(0, 255, (count, 3, 4, 3), dtype=np.uint8)
    return [Image.fromarray(s).resize((64, 48), Image.Resampling.BICUBIC) for s in small]


def test_stability_against_a_plain_count() -> None:
    images = blotches(12)
    found = as_json(stability(mean_colour, images, ["prompt=So? {keys}", "jpeg=30", "crop=0.3", "resize=0.5"], k=3))
    rows = {row["kind"]: row for row in found["changes"]}
    assert (
        rows["prompt"]["cosine"]["value"] == rows["prompt"]["overlap"]["value"] == rows["prompt"]["place"] == pytest.approx(1)
    )
    own, cropped = (mean_colour(some, None)[0] for some in (images, [i.crop((22, 17, 41, 31)) for i in images]))
    cosine = [float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) for a, b in zip(own, cropped, strict=True)]
    assert rows["crop"]["cosine"]["value"] == pytest.approx(np.mean(cosine), abs=1e-3)
    assert rows["crop"]["overlap"]["value"] < rows["jpeg"]["overlap"]["value"]
    assert rows["resize"]["cosine"]["value"] > 0.999
    assert found["overlap_chance"] == 3 / 11
    assert rows["jpeg"]["same_emotion"] is None


@pytest.mark.parametrize("text", ["crop=0", "crop=1.5", "jpeg=7.5", "blur=2", "crop", "prompt=no keys", "resize=x"])
def test_changes_that_cannot_be_read(text: str) -> None:
    with pytest.raises(ValueError, match=r"allowed: crop=SHARE"):
        Change.parse(text)


def test_stability_of_too_little() -> None:
    with pytest.raises(SchemaError, match="2 images; expected at least 3"):
        stability(mean_colour, blotches(2))
    with pytest.raises(SchemaError, match="unchanged: the embedding of image 0 is all zeros"):
        stability(mean_colour, [Image.new("RGB", (8, 8))] * 4)


# Files


def table(path: Path, ids: Sequence[str], vectors: ArrayLike) -> Path:
    EmbeddingTable(list(ids), [None] * len(ids), ["test"] * len(ids), np.asarray(vectors)).write(path)
    return path


def test_arms_are_joined_by_id(tmp_path: Path) -> None:
    references = References([make_record(f"i{n}") for n in range(5)])
    a = table(tmp_path / "a.parquet", ["i3", "i1", "x", "i0"], np.arange(8).reshape(4, 2) + 1)
    b = table(tmp_path / "b.parquet", ["i0", "i1", "i2"], np.ones((3, 2)))
    arms = load_arms({"a": a, "b": b}, references)
    assert arms["a"].ids == arms["b"].ids == ["i0", "i1"]
    assert arms["a"].vectors.tolist() == [[7, 8], [3, 4]]
    assert arms["a"].left_out == {
        "not among the references": 1,
        "not in all arms": 1,
        "references without an embedding": 2,
    }


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    references = References([make_record(f"i{n}") for n in range(4)])
    vectors = np.ones((4, 2))
    vectors[2] = 0
    zero = table(tmp_path / "zero.parquet", ["i0", "i1", "i2", "i3"], vectors)
    with pytest.raises(SchemaError, match=r"zero\.parquet: the embedding of 'i2' .* is all zeros"):
        load_arms({"a": zero}, references)
    assert len(load_arms({"a": zero}, references, "euclidean")["a"]) == 4
    vectors[1, 1] = np.nan
    with pytest.raises(SchemaError, match=r"'i1' .* not finite"):
        load_arms({"a": table(tmp_path / "nan.parquet", ["i0", "i1", "i2", "i3"], vectors)}, references)
    with pytest.raises(SchemaError, match="holds no row"):
        load_arms({"a": table(tmp_path / "none.parquet", [], np.zeros((0, 2)))}, references)
    with pytest.raises(SchemaError, match="none of its 1 images is among the 4 references"):
        load_arms({"a": table(tmp_path / "other.parquet", ["x"], np.ones((1, 2)))}, references)
    with pytest.raises(SchemaError, match="'i0' occurs twice"):
        load_arms({"a": table(tmp_path / "twice.parquet", ["i0", "i0"], np.ones((2, 2)))}, references)
    (tmp_path / "text.parquet").write_text("no")
    with pytest.raises(SchemaError, match="not a parquet file"):
        load_arms({"a": tmp_path / "text.parquet"}, references)


def test_stages_write_pages(tmp_path: Path, make_tar: MakeTar, capsys: pytest.CaptureFixture[str]) -> None:
    felt = moods(30)
    records = [
        make_record(
            f"i{n:03}",
            emotion=max(felt[n], key=felt[n].__getitem__),
            emotion_scores=felt[n],
            intensity=1 + n % 10,
            background=f"b{n % 3}",
            attribute="wet" if n % 2 else None,
            subject="dog",
        )
        for n in range(30)
    ]
    tar, _ = make_tar(records)
    arms = {
        name: table(tmp_path / f"{name}.parquet", [r.id for r in records], np.random.default_rng(seed).normal(size=(30, 4)))
        for seed, name in enumerate(("base", "ours"))
    }
    stages.retrieval_stage(tmp_path / "r", arms, [str(tar)], ks=[1, 3])
    stages.distance_stage(tmp_path / "d", arms, [str(tar)], permutations=19)
    stages.interpolation_stage(tmp_path / "p", arms, [str(tar)], per_pair=2, steps=5, k=3, strips=2)
    for folder, name, figures in (
        ("r", "retrieval", ["retrieval.svg"]),
        ("d", "distance", ["distance.svg"]),
        ("p", "interpolation", ["interpolation.svg", "strips.png"]),
    ):
        assert set(json.loads((tmp_path / folder / f"{name}.json").read_text())["arms"]) == {"base", "ours"}
        page = read_page(tmp_path / folder / "page.json")
        assert [figure.file for figure in page.figures] == figures
        assert page.tables
        assert all((tmp_path / folder / f"{name}.{kind}").stat().st_size > 1000 for kind in ("png", "pdf", "svg"))
        # A picture inside a drawing would not take the ink of a dark page.
        assert "<image" not in (tmp_path / folder / f"{name}.svg").read_text()
    assert "recall@k, percent" in capsys.readouterr().out


def test_a_page_says_what_is_missing(tmp_path: Path) -> None:
    """One emotion, no distribution, no triplet: nothing fails, and the page tells why there is no figure."""
    records = [make_record(f"i{n}", emotion="awe") for n in range(15)]
    lines = tmp_path / "r.jsonl"
    write_jsonl(lines, records)
    des = table(tmp_path / "d.parquet", [r.id for r in records], np.random.default_rng(0).normal(size=(15, 3)))
    stages.distance_stage(tmp_path / "d", {"a": des}, [str(lines)])
    stages.interpolation_stage(tmp_path / "p", {"a": des}, [str(lines)])
    stages.retrieval_stage(tmp_path / "r", {"a": des}, [str(lines)])
    notes = [note for folder in "dpr" for note in read_page(tmp_path / folder / "page.json").notes]
    assert (
        "affective distance, distribution, a: not computed, 0 of 15 images have 'emotion_scores'; expected at least 4" in notes
    )
    assert any(note.startswith("interpolation, a: not computed, 15 images with 1 emotions (awe)") for note in notes)
    assert "retrieval by triplet: 0 queries; 0 images without another of the same, 15 without a label" in notes


def test_mean_interval() -> None:
    values = np.random.default_rng(5).normal(size=500)
    value, low, high = mean_interval(values, 0)
    half = 1.96 * values.std() / np.sqrt(500)
    assert (value, low, high) == pytest.approx((values.mean(), values.mean() - half, values.mean() + half), abs=0.01)
    with pytest.raises(ValueError, match="no value"):
        mean_interval(values[:0], 0)
