"""`emo index build|search|info`: a place to search images by what they make people feel."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from emo_lightning.commands.arguments import add_verb, new_parser
from emo_lightning.core.errors import InputError
from emo_lightning.core.options import ALWAYS, Parser, Real, Whole, output_path
from emo_lightning.core.terminal import say

if TYPE_CHECKING:
    from emo_lightning.inference.inputs import InputImage
    from emo_lightning.inference.many import Looked
    from emo_lightning.inference.model import EmotionModel
    from emo_lightning.search.writer import IndexWriter, Written

ABOUT = "Index images by their emotion embedding (DES), and search them by a picture, by words, by a wish, or along a path."

EXAMPLES = """\
examples:
  emo index build photos/ --model emotion-model --out index
  emo index build des.parquet --records 'data/*-test-*.tar' --model emotion-model --out index
  emo index search photo.jpg --index index
  emo index search street-0042 --index index --like calmer --html calmer.html
  emo index search 'street - crowded - people' --index index --emotion awe --intensity high
  emo index search street-0042 --to forest-0007 --steps 7 --index index
  emo index info index"""

_BUILD = """\
Put images into an index: a LanceDB folder on this disk, or on S3 (s3://bucket/index), with the embedding, what is known of each image, and a
thumbnail. Tars bring their records; a Parquet file of emo embed or emo explain, or a feature cache, brings embeddings that are not computed
again. What is there is not done again: after an interrupt, or with more images, run the same command."""

_SEARCH = """\
Find images. QUERY is the id of an image of the index, a picture (file or address, through the model of the index), or words: BACKGROUND -
ATTRIBUTE - SUBJECT, with ? for any, or words alone, which stand for the images whose words match them best."""

_LIKE = "a wish (--like)"
_PATH = "a path (--to)"
_MODES = {
    ALWAYS: ("index", "model", "device", "emotion", "intensity", "where", "k", "json", "html", "like", "to", "exact"),
    _LIKE: ("strength",),
    _PATH: ("steps", "at"),
}


def parsers() -> tuple[Parser, Parser]:
    """The command's arguments, and those of `search`."""
    parser = new_parser("index", ABOUT, EXAMPLES)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="build|search|info")
    _build_arguments(_verb(verbs, "build", "put images into an index", _BUILD))
    search = _verb(verbs, "search", "find images", _SEARCH)
    _search_arguments(search)
    info = _verb(
        verbs, "info", "what an index holds", "Say what an index holds, whose embeddings, and what could not be taken in."
    )
    info.add_argument("index", metavar="INDEX", help="folder or URL")
    info.add_argument("--json", action="store_true", help="print JSON")
    return parser, search


def _verb(verbs: argparse._SubParsersAction[Parser], name: str, short: str, text: str) -> Parser:
    return add_verb(verbs, f"index {name}", short, text, EXAMPLES)


def _build_arguments(build: Parser) -> None:
    build.add_argument(
        "inputs",
        nargs="+",
        metavar="IMAGES",
        help="image files, folders, globs, addresses, tars, .parquet with a column path; or embeddings: .parquet with a column des, feature caches",
    )
    build.add_argument("--out", required=True, metavar="INDEX", help="folder or URL of the index")
    build.add_argument(
        "--model", type=Path, help="model folder, or hub id (not needed where every image has an embedding already)"
    )
    build.add_argument(
        "--records",
        nargs="+",
        default=[],
        metavar="RECORDS",
        help="of embeddings: tars or .jsonl that say what is true of their images",
    )
    build.add_argument("--no-thumbnails", action="store_true", help="keep no small pictures")
    build.add_argument("--batch-size", type=Whole(1), default=16, help="images at a time (default: 16)")
    build.add_argument("--device", help="torch device (default: a GPU where there is one)")


def _search_arguments(search: Parser) -> None:
    search.add_argument("query", metavar="QUERY", help="an id of the index, a picture, or words")
    search.add_argument("--index", required=True, help="folder or URL of the index")
    search.add_argument("--k", type=Whole(1, 10_000), default=10, help="images at most (default: 10)")
    search.add_argument("--emotion", metavar="EMOTION[,EMOTION]", help="of these emotions alone")
    search.add_argument("--intensity", metavar="LEVEL", help="low, medium, high, a number, a range 7-10, or >=7")
    search.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="only images of which it is true; also != ~ (contains) < <= > >=; the value none: not known; repeat the option for more",
    )
    search.add_argument(
        "--like",
        action="append",
        default=[],
        metavar="WISH",
        help="the same scene, but calmer, happier, sadder, …, stronger, weaker, more:awe, less:fear, emotion:calm; repeat the option to add",
    )
    search.add_argument(
        "--strength",
        type=Real(0, 10, above=True),
        default=1.0,
        help="how far to go: 1 from one emotion to the other (default: 1)",
    )
    search.add_argument("--to", metavar="QUERY", help="look on the way to another one")
    search.add_argument("--steps", type=Whole(2, 1000), help="one image at each of so many points of the way (default: 7)")
    search.add_argument("--at", type=Real(0, 1), help="the images nearest to one point of the way: 0 here, 1 there")
    search.add_argument("--exact", action="store_true", help="compare every image, also where the index is approximate")
    search.add_argument("--model", type=Path, help="for a picture: folder or hub id (default: the one that made the index)")
    search.add_argument("--device", help="torch device (default: a GPU where there is one)")
    search.add_argument("--json", action="store_true", help="print JSON lines, one an image")
    search.add_argument("--html", type=output_path, metavar="PAGE", help="also write a page with the thumbnails")
    search.modes(_MODES)


def main(argv: list[str]) -> int:
    """Run `emo index`."""
    parser, search = parsers()
    args = parser.parse_args(argv)
    match args.verb:
        case "build":
            return _build(args)
        case "search":
            from emo_lightning.commands.index_search import search_and_show

            modes = [mode for mode, given in ((_LIKE, args.like), (_PATH, args.to)) if given]
            search.refuse_unused(argv[argv.index("search") + 1 :], *modes)
            return search_and_show(args)
        case _:
            from emo_lightning.commands.index_search import show_info

            return show_info(args.index, as_json=args.json)


def _build(args: argparse.Namespace) -> int:
    from emo_lightning.inference.bundle import bundle_fingerprint, bundle_folder
    from emo_lightning.search.vectors import holds_vectors, is_feature_cache
    from emo_lightning.search.writer import IndexWriter

    tables = [one for one in args.inputs if holds_vectors(one)]
    caches = [one for one in args.inputs if is_feature_cache(one)]
    pictures = [one for one in args.inputs if one not in tables and one not in caches]
    if args.records and not (tables or caches):
        msg = "--records is for embeddings (.parquet with a column des, feature caches); tars bring their own"
        raise InputError(msg)
    if caches and args.model is None:
        msg = f"{caches[0]}: features need the DES head of a model: add --model FOLDER"
        raise InputError(msg)
    folder = None if args.model is None else bundle_folder(args.model)
    found = _entries(pictures)
    weights = bundle_fingerprint(folder) if folder is not None else _stored(tables, found)
    writer = IndexWriter(args.out, weights, _name(args.model, folder))
    with writer.alone():
        if tables or caches:
            _add_vectors(args, writer, tables, caches, folder)
        rate = _add_pictures(args, writer, found, folder).rate if found else ""
        written = writer.finish()
    _tell(args.out, written, rate)
    return 0


def _entries(pictures: Sequence[str]) -> list[InputImage]:
    from emo_lightning.inference.inputs import entries

    return entries(pictures) if pictures else []


def _name(model: Path | None, folder: Path | None) -> str | None:
    """How the model is found again: an absolute path, or its id."""
    if model is None or folder is None:
        return None
    return str(folder.resolve()) if model.expanduser().exists() else str(model)


def _stored(tables: Sequence[str], found: Sequence[InputImage]) -> str | None:
    """Which model's embeddings are given, as their files say."""
    from emo_lightning.search.sources import stored_weights
    from emo_lightning.search.vectors import parquet_weights

    tars = {entry.file for entry in found if entry.des is not None}
    said = {one: parquet_weights(one) for one in tables} | {one: stored_weights(one) for one in sorted(tars)}
    known = {weights: place for place, weights in said.items()}
    if len(known) > 1:
        (first, one), (second, other) = list(known.items())[:2]
        msg = (
            f"{one} and {other} hold embeddings of two models (weights {str(first)[:12]} and {str(second)[:12]}); an index is "
            "of one: embed all images with the same (emo embed IMAGES --model FOLDER), or build two"
        )
        raise InputError(msg)
    return next(iter(known), None)


def _add_vectors(
    args: argparse.Namespace, writer: IndexWriter, tables: Sequence[str], caches: Sequence[str], folder: Path | None
) -> None:
    from emo_lightning.inference.bundle import read_bundle
    from emo_lightning.search.vectors import Records, add_vectors, check_weights, feature_stretches, parquet_stretches

    records = Records(args.records) if args.records else None
    streams = []
    for one in tables:
        check_weights(one, writer.weights, None if args.model is None else str(args.model))
        streams.append(parquet_stretches(one))
    if folder is not None:
        bundle = read_bundle(folder)
        streams += [feature_stretches(one, bundle, args.device) for one in caches]
    recorded = sum(add_vectors(writer, one, records, thumbnails=not args.no_thumbnails) for one in streams)
    if records is not None:
        say(f"{recorded} new images have a record in {', '.join(args.records)}")


def _add_pictures(args: argparse.Namespace, writer: IndexWriter, found: Sequence[InputImage], folder: Path | None) -> Looked:
    from emo_lightning.search.sources import add_pictures

    def load() -> EmotionModel:
        from emo_lightning.experiment.advice import silence_advice
        from emo_lightning.inference.model import EmotionModel

        assert folder is not None
        silence_advice()
        return EmotionModel(folder, args.device)

    return add_pictures(writer, found, None if folder is None else load, args.batch_size, thumbnails=not args.no_thumbnails)


def _tell(place: str, written: Written, rate: str) -> None:
    changed = f", {written.changed} of them in the place of changed ones" if written.changed else ""
    say(f"{written.images} images in {place} ({written.new} new{changed}{rate and f', {rate}'})")
    if written.left_out:
        say(f"{len(written.left_out)} left out; emo index info {place} --json lists them, with reasons")
    if written.recall is not None:
        say(
            f"searches are approximate: they find {100 * written.recall:.1f} % of the 10 nearest (measured; --exact compares all)"
        )
