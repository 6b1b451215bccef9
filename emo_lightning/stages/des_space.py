"""The four measurements as stages of an experiment; `emo des` calls the same. Each writes JSON, `page.json`, PNG, PDF and SVG."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from emo_lightning.core.errors import InputError
from emo_lightning.core.records import SchemaError
from emo_lightning.core.terminal import say

if TYPE_CHECKING:
    from emo_lightning.analysis.des_space.inputs import DesSet
    from emo_lightning.analysis.references import References
    from emo_lightning.report.page import Page


def retrieval_stage(
    out: Path,
    embeddings: dict[str, Path],
    references: list[str],
    ks: list[int] | None = None,
    metric: str = "cosine",
    targets: list[str] | None = None,
    seed: int = 0,
) -> None:
    """recall@k by emotion, triplet and its elements; writes `retrieval.json` (arm -> `retrieval.retrieval`).

    Args:
        out: the stage's directory.
        embeddings: arm -> `des.parquet`, or tars with `{key}.des.npy`; images that not all arms have are left out and counted.
        references: .jsonl files of records, or tars (files, folders, globs).
        ks: how many neighbours count; default 1, 5, 10.
        metric: cosine or euclidean.
        targets: of emotion, triplet, background, attribute, subject; default all.
        seed: of the intervals' bootstrap.
    """
    from emo_lightning.analysis.des_space.inputs import as_metric
    from emo_lightning.analysis.des_space.retrieval import TARGETS, retrieval
    from emo_lightning.report.des_space_figures import draw_retrieval
    from emo_lightning.report.tables.des_space import retrieval_page

    ks, targets = sorted(set(ks or (1, 5, 10))), list(targets or TARGETS)
    arms = _load(embeddings, references, metric)
    result = {arm: retrieval(found, ks, as_metric(metric), targets, seed) for arm, found in arms.items()}
    draw_retrieval(result, out / "retrieval")
    _write(out, "retrieval", result, retrieval_page(result, arms))


def distance_stage(
    out: Path,
    embeddings: dict[str, Path],
    references: list[str],
    metric: str = "cosine",
    max_images: int = 1000,
    permutations: int = 499,
    seed: int = 0,
) -> None:
    """Embedding distance against what people felt; writes `distance.json` (arm -> `distance.affective_distance`).

    Args:
        out: the stage's directory.
        embeddings: as of `retrieval_stage`.
        references: records whose `emotion_scores` and `intensity` people gave.
        metric: cosine or euclidean.
        max_images: sample; pairs grow with its square.
        permutations: of Mantel's test.
        seed: of sample, test and interval.
    """
    from emo_lightning.analysis.des_space.distance import affective_distance
    from emo_lightning.analysis.des_space.inputs import as_metric
    from emo_lightning.report.des_space_figures import draw_distance
    from emo_lightning.report.tables.des_space import distance_page

    arms = _load(embeddings, references, metric)
    result = {
        arm: affective_distance(found, as_metric(metric), max_images, permutations, seed=seed) for arm, found in arms.items()
    }
    drawn = draw_distance(result, out / "distance")
    _write(out, "distance", result, distance_page(result, arms, drawn))


def interpolation_stage(
    out: Path,
    embeddings: dict[str, Path],
    references: list[str],
    metric: str = "cosine",
    per_pair: int = 10,
    steps: int = 11,
    k: int = 10,
    seed: int = 0,
    strips: int = 5,
) -> None:
    """Paths between emotions; writes `interpolation.json` (arm -> `interpolation.interpolation`) and, from tars, `strips.png`.

    Args:
        out: the stage's directory.
        embeddings: as of `retrieval_stage`.
        references: as of `retrieval_stage`; only tars have images for the strips.
        metric: cosine or euclidean.
        per_pair: paths per pair of emotions.
        steps: points on a path.
        k: neighbours that read a point.
        seed: of the paths' ends.
        strips: paths of the last arm that are drawn as images.
    """
    from emo_lightning.analysis.des_space.inputs import as_metric
    from emo_lightning.analysis.des_space.interpolation import interpolation
    from emo_lightning.analysis.references import References
    from emo_lightning.report.des_space_figures import draw_interpolation, draw_strips
    from emo_lightning.report.tables.des_space import interpolation_page

    truth = References.load(references)
    arms = _load(embeddings, truth, metric)
    found = {arm: interpolation(des, as_metric(metric), per_pair, steps, k, seed) for arm, des in arms.items()}
    result = {arm: summary for arm, (summary, _) in found.items()}
    drawn = draw_interpolation(result, out / "interpolation")
    arm = list(arms)[-1]
    chosen = found[arm][1][:: max(1, len(found[arm][1]) // strips)][:strips] if strips > 0 else []
    shown = [arm] if chosen and truth.has_images else []
    if shown:
        labelled = arms[arm].take([i for i, e in enumerate(arms[arm].emotions) if e is not None], "without an emotion")
        draw_strips(labelled, chosen, truth, out / "strips")
    _write(out, "interpolation", result, interpolation_page(result, arms, drawn, shown))


def stability_stage(
    out: Path,
    models: dict[str, Path],
    references: list[str],
    changes: list[str] | None = None,
    k: int = 10,
    max_images: int = 200,
    batch_size: int = 32,
    device: str | None = None,
    seed: int = 0,
) -> None:
    """What crop, JPEG, resolution and wording do to the embedding; writes `stability.json` (arm -> `stability.stability`).

    Args:
        out: the stage's directory.
        models: arm -> folder of an emotion model (`emo export`, or a `bundle` stage), or its hub id.
        references: tars.
        changes: `crop=0.9`, `jpeg=50`, `resize=0.5`, `prompt=TEXT with {keys}`; default `stability.DEFAULT_CHANGES`.
        k: neighbours compared.
        max_images: sample, in proportion to the emotions.
        batch_size: images at a time.
        device: torch device; None takes a GPU where there is one.
        seed: of the sample and the intervals' bootstrap.
    """
    from emo_lightning.analysis.des_space.stability import DEFAULT_CHANGES, Change, embedder, stability
    from emo_lightning.analysis.mds import stratified_sample
    from emo_lightning.analysis.references import References
    from emo_lightning.inference.model import EmotionModel
    from emo_lightning.report.des_space_figures import draw_stability
    from emo_lightning.report.tables.des_space import stability_page

    if not models:
        msg = "models: no arm is named"
        raise SchemaError(msg)
    if batch_size < 1 or max_images < 3:
        msg = f"batch_size={batch_size}, max_images={max_images}; expected at least 1 and 3"
        raise InputError(msg)
    wanted = list(changes or DEFAULT_CHANGES)
    for text in wanted:
        Change.parse(text)  # before a model is loaded
    truth = References.load(references)
    rows = stratified_sample([str(r.emotion or "") for r in truth.records], max_images, seed)
    images = [picture for i in rows if (picture := truth.picture(int(i))) is not None]
    result = {
        arm: stability(embedder(EmotionModel.from_pretrained(folder, device), batch_size), images, wanted, k, seed)
        for arm, folder in models.items()
    }
    draw_stability(result, out / "stability")
    _write(out, "stability", result, stability_page(result))


def _load(embeddings: dict[str, Path], references: References | list[str], metric: str) -> dict[str, DesSet]:
    from emo_lightning.analysis.des_space.inputs import as_metric, load_arms
    from emo_lightning.analysis.references import References

    truth = references if isinstance(references, References) else References.load(references)
    return load_arms(embeddings, truth, as_metric(metric))


def _write(out: Path, name: str, result: Mapping[str, object], page: Page) -> None:
    from emo_lightning.core.files import write_json
    from emo_lightning.report.page import write_page
    from emo_lightning.report.terminal import show_page

    write_json(out / f"{name}.json", {"arms": result})
    write_page(out, page)
    show_page(page)
    say(f"{name}: {out / f'{name}.json'}")
