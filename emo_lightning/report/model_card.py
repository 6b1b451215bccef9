"""The model card of an exported folder, by the conventions of the Hugging Face hub, out of the run's own results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import yaml

from emo_lightning.analysis.calibration import SetCalibration
from emo_lightning.analysis.table5_rows import SCORING_MODES, TABLE5_ROWS
from emo_lightning.analysis.table6 import TABLE6_METRICS
from emo_lightning.core.emotions import EMOTIONS
from emo_lightning.core.tables.markdown import escaped, markdown_rows
from emo_lightning.core.tables.table import Cell, Spread, Table, cell_text, columns
from emo_lightning.metrics.bootstrap import Estimate
from emo_lightning.report.model_results import ModelResults

MODEL_CARD_MARK = "<!-- written by emo export -->"
_SETS = {"test": "test images", "heldout": "combinations of background, attribute and subject that training never had"}


def model_card(
    name: str, results: ModelResults, *, base_model: str | None, merged: bool, des_dim: int, licence: str | None = None
) -> str:
    """README.md of a folder.

    Args:
        name: of the model.
        results: measured by its run.
        base_model: hub id that it was trained from; None where it has none.
        merged: whether the folder itself is a plain model, or an adapter beside its base.
        des_dim: numbers of an embedding.
        licence: of the weights, as the hub spells it; None leaves it to whoever publishes.

    Returns:
        Text that is the same for the same results: no date, path or machine.
    """
    head = yaml.safe_dump(
        _front_matter(name, results, base_model, merged, licence), sort_keys=False, allow_unicode=True, width=120
    )
    body = [
        *_use(name, merged, des_dim),
        *_measured(results),
        *_calibrated(results),
        *_unlike(results),
        *_data(results),
        *_limits(results),
    ]
    return "\n".join(["---", head + "---", MODEL_CARD_MARK, "", *body]) + "\n"


def _front_matter(
    name: str, results: ModelResults, base_model: str | None, merged: bool, licence: str | None
) -> dict[str, object]:
    base = {} if base_model is None else {"base_model": base_model, "base_model_relation": "finetune" if merged else "adapter"}
    return {
        "library_name": "emo-lightning",
        "pipeline_tag": "image-text-to-text",
        "language": ["en"],
        **({} if licence is None else {"license": licence}),
        **base,
        "tags": ["visual-emotion-analysis", "emotion", "sentence-transformers", "image-feature-extraction", "interpretability"],
        "model-index": [{"name": name, "results": list(_results(results))}],
    }


def _results(results: ModelResults) -> Iterator[dict[str, object]]:
    """Entries of `model-index`: Table 5 by mode, Table 6 by set."""
    for mode in SCORING_MODES:
        rows = results["table5"].get(mode) or {}
        metrics = [_metric(row.key, f"{row.title} ({mode})", rows[row.key]) for row in TABLE5_ROWS[mode] if row.key in rows]
        if metrics:
            yield _entry(
                "image-text-to-text", "interpretable emotion analysis", results["table5_split"], f"Table 5, {mode}", metrics
            )
    for name, found in results["table6"].items():
        metrics = [_metric(key, title, found[key]) for key, title in TABLE6_METRICS.items() if key in found]
        yield _entry("image-classification", "evoked emotion, eight classes", name, "Table 6, linear probe on DES", metrics)


def _entry(task: str, title: str, split: str, dataset: str, metrics: list[dict[str, object]]) -> dict[str, object]:
    return {
        "task": {"type": task, "name": title},
        "dataset": {"type": "webdataset", "name": f"{dataset} ({split})", "split": split},
        "metrics": metrics,
    }


def _metric(key: str, title: str, value: Estimate) -> dict[str, object]:
    found: dict[str, object] = {"type": key, "name": title, "value": _round(value["value"])}
    if value["low"] is not None:
        found["args"] = {"interval_95": [_round(value["low"]), _round(value["high"])]}
    return found


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def _use(name: str, merged: bool, des_dim: int) -> list[str]:
    opens = (
        "The folder itself is a plain model: `transformers.AutoModelForImageTextToText.from_pretrained` opens it, and vLLM reads this form."
        if merged
        else "`adapter/` is a peft adapter: `peft.PeftModel.from_pretrained(base, …)` puts it on its base model."
    )
    return [
        f"# {escaped(name)}",
        "",
        "What does this picture make people feel, how strongly, and what in it does that? A vision-language model that names background,",
        f"attribute and subject of a picture with boxes, an embedding of the emotion ({des_dim} numbers, DES), and a linear probe on it.",
        "The emotions are Mikels' eight: " + ", ".join(EMOTIONS) + ".",
        "",
        "```python",
        "from emo_lightning import EmotionModel",
        "",
        'model = EmotionModel.from_pretrained("path/or/id")',
        '(found,) = model.explain("photo.jpg")',
        "print(found.unlike, found.said, found.probe)",
        "```",
        "",
        "```python",
        "from sentence_transformers import SentenceTransformer",
        "",
        'vectors = SentenceTransformer("path/or/id", trust_remote_code=True).encode([image])',
        "```",
        "",
        opens,
        "",
    ]


def _measured(results: ModelResults) -> Iterator[str]:
    yield from ("## Measured", "", "With 95 % intervals; in percent, or x100.", "")
    for mode in SCORING_MODES:
        rows = results["table5"].get(mode) or {}
        if rows:
            yield from (f"Table 5, {mode}, {results['table5_images']} images ({results['table5_split']}):", "")
            yield from _values("table5", {row.title: Spread.of(rows[row.key]) for row in TABLE5_ROWS[mode] if row.key in rows})
    for name, found in results["table6"].items():
        about = _SETS.get(name, name)
        yield from (f"Table 6, linear probe on frozen DES, {results['table6_images'][name]} {about}:", "")
        yield from _values("table6", {title: Spread.of(found[key]) for key, title in TABLE6_METRICS.items() if key in found})
    if not results["table5"] and not results["table6"]:
        yield from ("Nothing: the run that it comes from has neither of the tables.", "")


def _calibrated(results: ModelResults) -> Iterator[str]:
    yield from ("## Calibration", "")
    found = results["calibration"]
    if found is None or found["fit"] is None:
        yield from ("Not calibrated: take the probe's probabilities for an order, not for frequencies.", "")
        return
    yield from (
        f"Temperature {found['fit']['temperature']:.3f} and conformal threshold, fitted on {found['fit']['images']} validation images:",
        "",
    )
    for name, one in found["sets"].items():
        yield from (f"{one['images']} {_SETS.get(name, name)}:", "")
        yield from _values("calibration", _calibration_rows(one))
    yield from (
        "The coverage of the sets is guaranteed on average over images like the validation set's, and for no others.",
        "",
    )


def _calibration_rows(one: SetCalibration) -> dict[str, Cell]:
    rows: dict[str, Cell] = {"calibration error (ECE), as the probe says": Spread.of(one["calibration"]["ece"])}
    if one["scaled"] is not None:
        rows["calibration error (ECE), at the temperature"] = Spread.of(one["scaled"]["ece"])
    if (sets := one["conformal"]) is not None:
        rows["conformal sets that hold the true emotion"] = Spread(sets["coverage"], sets["low"], sets["high"])
        rows["emotions in a set, on average"] = sets["size"]
    return rows


def _unlike(results: ModelResults) -> Iterator[str]:
    yield from ("## Pictures unlike its training images", "")
    found = results["unlike"]
    if found is None:
        yield from ("Not known: this folder cannot tell whether a picture is like anything that the model was trained on.", "")
        return
    yield (
        f"Each picture gets a distance from {found['train_images']:,} images that the DES head was trained on (Mahalanobis distance of embedding, "
        f"vision tower's states and patches). Above {found['threshold']:.2f} it is called unlike what the model was trained on: its conformal set is "
        "then all eight emotions, and its probabilities count as not calibrated. The threshold is set on "
        f"{found['val_images']:,} validation images, so that at most {found['false_alarms']:.0f} % of images like them are called so."
    )
    yield ""
    rows = {
        f"called unlike, of {one['images']} {_SETS.get(name, name)} (%)": Spread.of(one["share"])
        for name, one in found["sets"].items()
    }
    if found["others"] is not None:
        rows[f"called unlike, of {found['others']['images']} pictures that are (%)"] = Spread.of(found["others"]["share"])
    if found["auroc"] is not None:
        rows[f"AUROC of telling these from the {_SETS.get(str(found['against']), found['against'])} (x100)"] = Spread.of(
            found["auroc"]
        )
    yield from _values("unlike", rows)
    if found["auroc"] is None:
        yield from ("How well it tells pictures that are unlike was not measured: `emo export --unlike PICTURES` does.", "")


def _data(results: ModelResults) -> Iterator[str]:
    yield from ("## Data", "")
    if not results["data"]:
        yield from ("What it was fine-tuned on is not known to this folder.", "")
    for one in results["data"]:
        images = ", ".join(f"{count:,} {split}" for split, count in one["counts"].items())
        yield from (f"{escaped(one['name'])}: {images}.", "")
        for what, counts in (("licence", one["licences"]), ("source", one["sources"])):
            yield from _rows(Table(what, f"Images by {what}", columns(what, "images"), [[key, n] for key, n in counts.items()]))


def _limits(results: ModelResults) -> Iterator[str]:
    yield from ("## What it is not for", "")
    yield (
        "- It estimates the emotion that a picture *evokes* in people who look at it. It does not say what a person in a picture feels, "
        "wants or is."
    )
    yield "- No biometrics: it must not be used to recognise, categorise or judge people by their faces, voices or bodies."
    yield "- No decision about a person (work, school, credit, police, health) may rest on it."
    yield (
        "- The labels are those of its annotators: people elsewhere may feel otherwise, and eight categories are few. A box shows where "
        "its words point, which is no proof of a cause; `emo faithfulness` measures that."
    )
    yield from ("", "## Out of its domain", "")
    collapse = results["collapse"]
    if collapse is None:
        yield (
            "Not measured: pictures unlike those that it was fine-tuned on may do worse than with its base model. "
            "`emo cross-dataset` measures that."
        )
    else:
        low, high = collapse["interval"] if isinstance(collapse["interval"], list) else (None, None)
        gain = Spread(_number(collapse["difference"]), low, high)
        sets = ", ".join(escaped(str(name)) for name in _names(collapse["sets"]))
        yield f"Accuracy over that of {escaped(str(collapse['base']))} on {sets}: {cell_text(gain)} points on average."


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")


def _names(value: object) -> list[object]:
    return list(value) if isinstance(value, list) else []


def _values(key: str, rows: Mapping[str, Cell]) -> Iterator[str]:
    yield from _rows(Table(key, key, columns(("what", ""), "value"), [[what, value] for what, value in rows.items()]))


def _rows(table: Table) -> Iterator[str]:
    yield from (*markdown_rows(table), "")
