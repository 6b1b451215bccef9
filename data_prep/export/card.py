"""The dataset card of an export: YAML that `datasets` loads it by, and what a stranger must know before using it."""

from __future__ import annotations

from collections.abc import Mapping

import yaml

from data_prep.export.manifest import Manifest
from data_prep.stats.distribution import Distribution
from emo_lightning.core.text import markdown_text

DATASET_CARD_MARK = "<!-- written by emo prep export -->"
"""Stands in every card of ours; a file without it is somebody's own and is not replaced."""

_LONGEST = 200
"""Characters of a licence, a source or a model's name."""
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"), (10_000_000, "1M<n<10M"))
_HUB_LICENCES = {
    *("cc0-1.0", "cc-by-2.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0"),
    *("cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-4.0", "mit", "apache-2.0", "odc-by", "odbl", "pddl"),
}
"""Licences that the Hub knows by these names."""


def dataset_card(manifest: Manifest) -> str:
    """README.md of an export.

    Args:
        manifest: of the export; its shards are not looked at.

    Returns:
        Text that is the same for the same manifest: it holds no date, path or machine.
    """
    head = yaml.safe_dump(_front_matter(manifest), sort_keys=False, allow_unicode=True)
    return "\n".join(["---", head + "---", DATASET_CARD_MARK, "", *_body(manifest)]) + "\n"


def _front_matter(manifest: Manifest) -> dict[str, object]:
    name, counts, contents = manifest["name"], manifest["counts"], manifest["contents"]
    total = sum(counts.values())
    licences = [licence.lower() for licence in contents["licence"]]
    known = all(licence in _HUB_LICENCES for licence in licences)
    licence: dict[str, object] = (
        {"license": licences if len(licences) > 1 else licences[0]}
        if known
        else {"license": "other", "license_name": "per-image", "license_link": "README.md"}
    )
    features = [
        *({"name": extension, "dtype": "image"} for extension in contents["extension"]),
        # Named, not inferred: `datasets` looks at five samples alone, and the provenance of a sixth may have other keys.
        {"name": "json", "dtype": "json"},
        {"name": "__key__", "dtype": "string"},
        {"name": "__url__", "dtype": "string"},
    ]
    return {
        "pretty_name": name,
        **licence,
        "task_categories": ["image-classification", "image-to-text", "object-detection"],
        "tags": ["visual-emotion-analysis", "emotion", "webdataset"],
        "size_categories": [next((size for limit, size in _SIZES if total < limit), "n>10M")],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"{name}-{split}-[0-9]*.tar"} for split in counts],
            }
        ],
        "dataset_info": {"config_name": "default", "features": features},
    }


def _body(manifest: Manifest) -> list[str]:
    contents, origin = manifest["contents"], manifest["created_from"]
    lines = [
        f"# {manifest['name']}",
        "",
        "Images with records of the emotion that they evoke: category (Mikels' eight) with distribution and confidence, intensity,",
        "description, background–attribute–subject triplet, and boxes and masks of the subject where they were found.",
        "",
        "```python",
        "from datasets import load_dataset  # 4.7 or newer: the records are of its Json type",
        'data = load_dataset("path/to/this/folder")',
        "```",
        "",
        *_loading(manifest),
        "",
        "## Images",
        "",
        *_emotion_table(manifest),
        "",
        *_table(("Source", "Images"), contents["source"]),
        "",
        *_reencoded(manifest),
        *_metadata(manifest),
        "## Licences",
        "",
        "Every image keeps the licence and origin that its source states, in `json.provenance.licence` and `.origin`.",
        "",
        *_table(("Licence", "Images"), contents["licence"]),
        "",
        "## How it was annotated",
        "",
        *_annotation(contents["model"], origin),
        *_people(contents.get("people", {})),
    ]
    if manifest["excluded"]:
        lines += ["", "Left out:", "", *_table(("Reason", "Images"), manifest["excluded"])]
    return lines


def _loading(manifest: Manifest) -> list[str]:
    extensions = list(manifest["contents"]["extension"])
    members = " and ".join([f"`KEY.{'|'.join(extensions)}`", "`KEY.json`"])
    lines = [f"The tars are WebDataset shards ({members}); `manifest.json` has their sha256."]
    if len(extensions) > 1:
        return [
            *lines,
            "Their images are of several types, which `datasets` opens as this folder alone, a column for each type.",
        ]
    return [
        *lines,
        "Without this card, from the tars alone:",
        "",
        "```python",
        "from datasets import Features, Image, Json, Value",
        "",
        f'features = Features({{"{extensions[0]}": Image(), "json": Json(), "__key__": Value("string"), "__url__": Value("string")}})',
        'data = load_dataset("webdataset", data_files="*-train-*.tar", features=features)',
        "```",
        "",
        "`features` may be left out where the first five records say all that any of them says: `datasets` takes the types from these.",
    ]


def _reencoded(manifest: Manifest) -> list[str]:
    images = manifest["images"]
    if not images["reencoded"]:
        return []
    counts = ", ".join(f"{n} {extension}" for extension, n in images["reencoded"].items())
    said = (
        f"All images are {images['type']}. {counts} were of another type and were written anew ({images['how']}): `json.sha256` is of the "
        "file here, `json.provenance.source_sha256` of the one that it was made of. Sizes, boxes and masks are as they were."
    )
    return ["## Images that were written anew", "", said, ""]


def _metadata(manifest: Manifest) -> list[str]:
    origin, anew = manifest["created_from"], bool(manifest["images"]["reencoded"])
    if origin.get("metadata") == "kept":
        said = (
            "The image files are as their sources made them, with all that they say beside their pixels (EXIF, XMP, IPTC, text): "
            "that may be the place and time of a photograph, the camera, and names of people."
        ) + (" Those written anew keep their EXIF alone." if anew else "")
    elif removed := origin.get("metadata_removed"):
        but = ", but for those written anew" if anew else ""
        said = (
            f"{removed} image files said more than their pixels (EXIF, XMP, IPTC, text: place, time, camera, …); that was taken out. "
            f"Pixels and colour profiles are as they were{but}."
        )
    else:
        return []
    return ["## Metadata of the image files", "", said, ""]


def _emotion_table(manifest: Manifest) -> list[str]:
    splits = list(manifest["counts"])
    by_split = {split: Distribution.of(manifest["label_counts"].get(split, {})) for split in splits}
    everything = Distribution.of({e: sum(d.counts[e] for d in by_split.values()) for e in Distribution.of({}).counts})
    lines = ["| Emotion | " + " | ".join((*splits, "all", "share")) + " |", "|---" * (len(splits) + 3) + "|"]
    for emotion, total in everything.counts.items():
        cells = [*(by_split[split].counts[emotion] for split in splits), total, f"{everything.shares[emotion]:.2f} %"]
        lines.append(f"| {emotion} | " + " | ".join(map(str, cells)) + " |")
    counts = [manifest["counts"][split] for split in splits]
    lines.append("| images | " + " | ".join(map(str, (*counts, sum(counts)))) + " | |")
    balance = (
        f"Δ (largest − smallest share) {everything.delta:.2f} points; variance of the shares {everything.sigma:.2f} points²."
    )
    return [*lines, "", balance]


def _annotation(models: dict[str, int], origin: Mapping[str, object]) -> list[str]:
    if origin.get("labels") == "source":
        return [
            "The labels are those of the sources; nothing was annotated. `json.provenance.source_labels` has them as given."
        ]
    if not models:
        return ["These records name no annotator in their provenance."]
    return [
        "Machines annotated each image alone; their votes on the emotion were pooled by weight, a critic model judged description,",
        "triplet, emotion and intensity level, and what it criticised was annotated again. Only records that ended valid are here.",
        "`json.provenance` has every reply, vote, verdict, revision and what humans decided.",
        "",
        *_table(("Model", "Images"), models),
    ]


def _people(counts: dict[str, int]) -> list[str]:
    if not counts:
        return []
    return [
        "",
        "What people said before any of that is in the records as well: valence, arousal and dominance with the mean, the standard deviation",
        "where it is published, and the ends of the scale; votes in the words of the source.",
        "",
        *_table(("From people", "Images"), counts),
    ]


def _table(head: tuple[str, str], rows: dict[str, int]) -> list[str]:
    return [
        f"| {head[0]} | {head[1]} |",
        "|---|---|",
        *(f"| {markdown_text(name[:_LONGEST])} | {n} |" for name, n in rows.items()),
    ]
