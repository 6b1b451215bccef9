"""The folder of a trained model: `emo.json`, which says where backbone, DES head and probe are, and what each is asked."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

from emo_lightning.core.files import read_object, write_json
from emo_lightning.core.foreign import object_of, text_of
from emo_lightning.core.hub import cache_only
from emo_lightning.core.model_folders import BUNDLE_FILE, SHIPPED, BackboneError, check_made_of, made_of, weights_hash
from emo_lightning.core.records import SchemaError
from emo_lightning.data.chat import OBJECTIVES

__all__ = [
    "BUNDLE_FILE",
    "Bundle",
    "bundle_fingerprint",
    "bundle_folder",
    "check_bundle",
    "check_bundle_pixels",
    "find_bundle",
    "fingerprint_of",
    "read_bundle",
    "write_bundle",
]


@dataclass(frozen=True)
class Bundle:
    """What `emo.json` says; folders are absolute once it is read."""

    backbone: str
    """Adapter or model folder, or hub id."""
    head: str
    """Folder of the DES head that was trained on the backbone."""
    probe: str | None
    """Folder of a linear probe on that DES, for the emotion distribution."""
    features: str
    """Objective at whose prompt the hidden states are taken."""
    questions: list[str]
    """Objectives that `emo explain` asks."""
    made_of: dict[str, str] = field(default_factory=dict)
    """Part (`backbone`, `head`, `probe`, `spread`, `affect`) -> content hash; empty in a bundle of version 0.2."""
    spread: str | None = None
    """Folder that says where the training images lie; None, as in a bundle of version 0.2: it is not known which images are unlike them."""
    embeds_as: str | None = None
    """`bundle_fingerprint` of the model that this folder was exported from, whose embeddings it gives, up to the rounding of merging an adapter;
    None where it was not exported, or with weights of another type."""
    affect: str | None = None
    """Folder of the layer that gives valence, arousal and dominance of that DES (`models.affect.AffectHead`); None where none was trained."""

    @property
    def parts(self) -> dict[str, str]:
        """Part -> folder (or the backbone's hub id), of those that there are."""
        found = {
            "backbone": self.backbone,
            "head": self.head,
            "probe": self.probe,
            "spread": self.spread,
            "affect": self.affect,
        }
        return {part: place for part, place in found.items() if place}


def write_bundle(folder: Path, bundle: Bundle) -> None:
    """Write `FOLDER/emo.json`; paths that exist are written relative to it, so that a run directory can be moved as a whole."""

    def place(path: str) -> str:
        # A hub id stays as it is.
        return os.path.relpath(path, folder) if Path(path).exists() else path

    placed = replace(bundle, **{part: place(path) for part, path in bundle.parts.items()})  # type: ignore[arg-type] # all are texts
    said = asdict(placed)
    # Absent, not null: older versions, which know no such part, read what has none.
    write_json(folder / BUNDLE_FILE, {key: value for key, value in said.items() if key != "affect" or value is not None})


def read_bundle(folder: Path) -> Bundle:
    """What `emo.json` says, its folders made absolute.

    Raises:
        SchemaError: no such file, or one with other keys or other kinds of values.
    """
    path = folder / BUNDLE_FILE
    if not path.is_file():
        msg = (
            f"{folder}: {_what_is(folder)}; expected the folder of an emotion model (as `emo export` or an experiment's `model` stage writes "
            f"it, with {BUNDLE_FILE}, e.g. runs/demo/model), or a hub id"
        )
        raise SchemaError(msg)
    found = read_object(path)
    # Version 0.2 named no content, and knew nothing of what it was trained on.
    later = {"made_of", "spread", "embeds_as", "affect"}
    keys = {entry.name for entry in fields(Bundle)} - later
    if set(found) - later != keys:
        msg = f"{path}: keys {', '.join(sorted(found))}; expected {', '.join(sorted(keys))}"
        raise SchemaError(msg)

    def text(key: str) -> str:
        if not isinstance(found[key], str) or not found[key]:
            msg = f"{path}: key {key!r}: found {found[key]!r}; expected text"
            raise SchemaError(msg)
        return str(found[key])

    def place(key: str) -> str:
        given = text(key)
        # Not `Path.exists`, which raises for a name that no file can have.
        return str((folder / given).resolve()) if os.path.exists(folder / given) else given  # noqa: PTH110

    questions = found["questions"]
    if not isinstance(questions, list) or not questions or not all(isinstance(name, str) for name in questions):
        msg = f"{path}: key 'questions': found {questions!r}; expected a list of objectives"
        raise SchemaError(msg)
    if unknown := next((name for name in (*questions, text("features")) if name not in OBJECTIVES), None):
        msg = f"{path}: found the objective {unknown!r}; allowed: {', '.join(OBJECTIVES)}"
        raise SchemaError(msg)
    where = f"{path}: key 'made_of'"
    made = object_of(found.get("made_of", {}), where, SchemaError)
    parts = {part: text_of(value, f"{where}: {part}", SchemaError) for part, value in made.items()}
    probe, spread, affect = (place(part) if found.get(part) else None for part in ("probe", "spread", "affect"))
    embeds_as = text("embeds_as") if found.get("embeds_as") is not None else None
    return Bundle(place("backbone"), place("head"), probe, text("features"), questions, parts, spread, embeds_as, affect)


def _what_is(folder: Path) -> str:
    """What is found where a bundle was expected."""
    if not folder.is_dir():
        return "is a file" if folder.exists() else "no such folder"
    if inner := sorted(folder.glob(f"*/{BUNDLE_FILE}")):
        return (
            f"holds several stages, of which {inner[0].parent} is a model"
            if (folder / "experiment.yaml").is_file()
            else (f"its folder {inner[0].parent.name} is one, it is not")
        )
    if (folder / "adapter_config.json").is_file():
        return "an adapter alone, without DES head and probe"
    if (folder / "config.json").is_file():
        kind = read_object(folder / "config.json").get("class")
        return f"a {kind} alone" if isinstance(kind, str) else "a plain model, without DES head and probe"
    return f"no {BUNDLE_FILE} there"


def find_bundle(name: str) -> Bundle | None:
    """The emotion model that a folder or hub id is; None for a plain model, an adapter, or what is none of them.

    Raises:
        HubError: the hub cannot be reached, and nothing of the id is in the local cache.
        SchemaError: as `read_bundle`.
    """
    if not _is_id(name):
        folder = Path(name).expanduser()
        return read_bundle(folder) if (folder / BUNDLE_FILE).is_file() else None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        hf_hub_download(name, BUNDLE_FILE, local_files_only=cache_only(name))
    except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError):
        # Of a model that is not there at all, whoever loads it says so.
        return None
    return read_bundle(bundle_folder(name))


def _is_id(name: str) -> bool:
    """Whether it can only be `owner/name` at the hub."""
    return name not in SHIPPED and not Path(name).exists() and not name.startswith((".", "/", "~")) and name.count("/") == 1


def bundle_folder(name: str | Path, revision: str | None = None, token: str | None = None) -> Path:
    """Where the files of a model are: the folder itself, or that of a hub id, which is downloaded where the cache lacks it.

    Args:
        name: folder, or `owner/name`.
        revision: branch, tag or commit of the hub's.
        token: for a private one.

    Raises:
        HubError: the hub cannot be reached, and nothing of the id is in the local cache.
        SchemaError: the hub has no such model, or does not give it.
    """
    text = str(name)
    if not _is_id(text):
        return Path(text).expanduser()
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(text, revision=revision, token=token, local_files_only=cache_only(text)))
    except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError) as error:
        msg = f"{text}: no folder of that name, and the hub does not give it: {' '.join(str(error).split())}"
        raise SchemaError(msg) from None


def check_bundle(bundle: Bundle, where: object) -> dict[str, str]:
    """Refuse parts that do not belong together: a head or spread of another backbone or prompt, a probe or affect of another head, a changed part.

    Args:
        bundle: its folders are there.
        where: what names them, for messages.

    Returns:
        Part -> content hash, as `Bundle.made_of`.

    Raises:
        BackboneError: names the part.
    """
    now = {part: weights_hash(place) for part, place in bundle.parts.items()}
    if bundle.made_of:
        check_made_of(where, bundle.made_of, now)
    of_backbone = {"backbone": now["backbone"], "prompt": bundle.features}
    check_made_of(f"DES head {bundle.head}", made_of(bundle.head), of_backbone)
    if bundle.probe:
        check_made_of(f"probe {bundle.probe}", made_of(bundle.probe), {"head": now["head"]})
    if bundle.affect:
        check_made_of(f"affect head {bundle.affect}", made_of(bundle.affect), {"head": now["head"]})
    if bundle.spread:
        check_made_of(f"spread {bundle.spread}", made_of(bundle.spread), of_backbone)
    return now


def check_bundle_pixels(bundle: Bundle, pixels: str, where: object) -> None:
    """Refuse a head that was trained on pictures of another size than the backbone sees them at: its embeddings would be others.

    Args:
        bundle: whose head says it; one of version 0.2 does not.
        pixels: of the loaded backbone, `Backbone.pixels`.
        where: what names them, for messages.

    Raises:
        BackboneError: says both sizes, and what may be done.
    """
    said = made_of(bundle.head).get("pixels")
    if said is not None and said != pixels:
        msg = (
            f"{where}: its DES head {bundle.head} was trained on pictures of {said} pixels, and its backbone {bundle.backbone} is loaded with "
            f"{pixels}; train the head at the backbone's (backbone.min_pixels, backbone.max_pixels of its experiment), or give the backbone's "
            "processor_config.json those of the head"
        )
        raise BackboneError(msg)


def bundle_fingerprint(folder: Path, content: Callable[[str], str] = weights_hash) -> str:
    """sha256 over what decides the DES of an image: backbone, DES head and prompt, however they are packed.

    A folder that was exported has that of the model that it was exported from, as long as its weights are those that were exported: what was
    embedded by the one can be asked for by the other.

    Args:
        folder: of the bundle.
        content: hash of a folder of weights.

    Raises:
        SchemaError: as `read_bundle`.
    """
    return fingerprint_of(read_bundle(folder), content)


def fingerprint_of(bundle: Bundle, content: Callable[[str], str] = weights_hash) -> str:
    """`bundle_fingerprint` of a bundle that has been read."""
    now = {"backbone": content(bundle.backbone), "head": content(bundle.head)}
    if bundle.embeds_as is not None and all(bundle.made_of.get(part) == found for part, found in now.items()):
        return bundle.embeds_as
    return hashlib.sha256(" ".join([*now.values(), bundle.features]).encode()).hexdigest()
