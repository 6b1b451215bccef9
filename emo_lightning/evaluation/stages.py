"""What an experiment calls: each function is one kind of stage, writes its files into `out` and prints its table.

Arguments come from YAML; heavy imports wait inside, so that an experiment can be checked before torch is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emo_lightning.schema import Prediction, SchemaError

if TYPE_CHECKING:
    from emo_lightning.evaluation.references import References


def table5_stage(
    out: Path,
    predictions: dict[str, Path],
    references: list[str],
    train: list[str] | None = None,
    clip: str | None = None,
    remarks: list[str] | None = None,
) -> None:
    """Score predictions, write `table5.json` (see `table5.table5`) and print both modes.

    Args:
        out: the stage's directory.
        predictions: arm -> predictions file (.jsonl).
        references: .jsonl files of records, or tars (files, folders, globs); only tars have images.
        train: records that the constant answers come from; without it the references themselves.
        clip: folder or hub id of a CLIP model; without it the CLIP rows are not computed.
        remarks: what a reader of the table should know of its arms; shown below it.
    """
    from emo_lightning.evaluation.artifacts import write_json
    from emo_lightning.evaluation.console import show, table5_tables

    result = score(predictions, references, train, clip) | {"remarks": remarks or []}
    write_json(out / "table5.json", result)
    show(table5_tables(result))


def score(
    predictions: Mapping[str, Path], references: list[str], train: list[str] | None = None, clip: str | None = None
) -> dict[str, Any]:
    """Load everything and compute Table 5; arguments as `table5_stage`."""
    from emo_lightning.evaluation.clip import ClipScorer
    from emo_lightning.evaluation.references import References
    from emo_lightning.evaluation.table5 import table5

    truth = References.load(references)
    arms = _arms(predictions, truth)
    training = References.load(train) if train else None
    return table5(arms, truth, training, ClipScorer.load(clip) if clip else None)


def table6_stage(out: Path, probes: dict[str, list[Path]]) -> None:
    """Gather probe runs, write `table6.json` (see `table6.table6`) and print the table.

    Args:
        out: the stage's directory.
        probes: arm -> directories of its probe stages, one per seed, each with `metrics.json`.
    """
    from emo_lightning.evaluation.artifacts import write_json
    from emo_lightning.evaluation.console import show, table6_tables
    from emo_lightning.evaluation.table6 import table6

    if not probes:
        raise SchemaError("probes: no arm is named")
    result = table6(probes)
    write_json(out / "table6.json", result)
    show(table6_tables(result))


def mds_stage(out: Path, embeddings: dict[str, Path], seed: int = 0, max_points: int = 2000) -> None:
    """Lay each arm's embeddings out in two dimensions; write `mds.json` (figures) and `mds.npz` (points).

    `mds.npz` holds, for the n-th arm of `mds.json`, `coords_n` (N, 2), `labels_n` and `ids_n`. Arms over the same images show
    the same sample of them.

    Args:
        out: the stage's directory.
        embeddings: arm -> .parquet with the columns id, emotion, split, des; rows without an emotion are left out and counted.
        seed: of the sample.
        max_points: images per arm, drawn in proportion to the emotions.
    """
    import numpy as np

    from emo_lightning.evaluation.artifacts import write_json, write_npz
    from emo_lightning.evaluation.mds import emotion_cloud

    if not embeddings:
        raise SchemaError("embeddings: no arm is named")
    arms: dict[str, Any] = {}
    arrays: dict[str, Any] = {}
    for n, (arm, path) in enumerate(embeddings.items()):
        vectors, labels, ids, splits, dropped = _read_des(Path(path))
        cloud = emotion_cloud(vectors, labels, ids, seed=seed, max_points=max_points)
        arms[arm] = {**cloud.summary(), "splits": splits, "without_emotion": dropped, "seed": seed, "dim": vectors.shape[1]}
        arrays |= {f"coords_{n}": cloud.coords, f"labels_{n}": np.array(cloud.labels), f"ids_{n}": np.array(cloud.ids)}
    write_npz(out / "mds.npz", arrays)
    write_json(out / "mds.json", {"arms": arms, "max_points": max_points})


def panel_stage(out: Path, predictions: dict[str, Path], references: list[str], count: int = 6, seed: int = 0) -> None:
    """Pick some images and write `panel.json` and `panel/*.jpg`: what was said of them beside what is true.

    Args:
        out: the stage's directory.
        predictions: arm -> predictions file (.jsonl).
        references: tars; JSON lines have no images.
        count: images, spread over the emotions.
        seed: of the choice.
    """
    from emo_lightning.evaluation.panel import write_panel
    from emo_lightning.evaluation.references import References

    truth = References.load(references)
    write_panel(out, _arms(predictions, truth), truth, count, seed)


def report_stage(out: Path, run_dir: Path) -> None:
    """Write `run_dir/report.html` from whatever stages of the run exist, and print where it is.

    Args:
        out: the stage's directory; receives `report.json` with the path.
        run_dir: the run's directory.
    """
    from emo_lightning.evaluation.artifacts import write_json
    from emo_lightning.evaluation.report import build_report

    page = build_report(run_dir, run_dir / "report.html")
    write_json(out / "report.json", {"report": str(page)})
    print(f"report: {page}")


def _arms(predictions: Mapping[str, Path], references: References) -> dict[str, dict[str, Prediction]]:
    from emo_lightning.evaluation.references import load_predictions

    if not predictions:
        raise SchemaError("predictions: no arm is named")
    return {arm: load_predictions(path, references) for arm, path in predictions.items()}


def _read_des(path: Path) -> tuple[Any, list[str], list[str], dict[str, int], int]:
    """Sorted by id, so that files in another order give the same picture."""
    import numpy as np
    import pyarrow.parquet as parquet

    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected .parquet with the columns id, emotion, split, des")
    table = parquet.read_table(path)
    if missing := {"id", "emotion", "split", "des"} - set(table.column_names):
        raise SchemaError(f"{path}: no column {', '.join(sorted(missing))}; found {', '.join(table.column_names)}")
    rows = sorted(table.to_pylist(), key=lambda row: str(row["id"]))
    kept = [row for row in rows if row["emotion"]]
    if not kept:
        raise SchemaError(f"{path}: none of its {len(rows)} rows has an emotion")
    if len({len(row["des"] or ()) for row in kept}) > 1:
        raise SchemaError(f"{path}: the embeddings differ in length: {sorted({len(row['des'] or ()) for row in kept})}")
    splits: dict[str, int] = {}
    for row in kept:
        splits[str(row["split"])] = splits.get(str(row["split"]), 0) + 1
    vectors = np.array([row["des"] for row in kept], dtype=np.float64).reshape(len(kept), -1)
    return vectors, [row["emotion"] for row in kept], [str(row["id"]) for row in kept], splits, len(rows) - len(kept)
