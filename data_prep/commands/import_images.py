"""`emo prep import`: take images into a store."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.commands.console import new_parser
from data_prep.sources import PUBLISHED, SOURCES, Source, SourceError, SourceItem, SourceRefusal, open_source
from data_prep.sources.base import Repeat
from emo_lightning.core.files import replacing
from emo_lightning.core.label_map import EMOTION_BY_NAME, read_label_map
from emo_lightning.core.options import ALWAYS, output_path
from emo_lightning.core.progress import progress_bars
from emo_lightning.core.terminal import say

if TYPE_CHECKING:
    from emo_lightning.core.overlap import ImageCollection

_NAMES = ("folder", "world", *SOURCES[1:])
"""Sources by name: those of `data_prep.sources`, and the demo's world."""
_REASONS = 20
"""Kinds of refusals that are printed, the most frequent first."""


def main(argv: list[str]) -> int:
    """Take images into a store."""
    parser = new_parser(
        "import",
        "Take images into a store. Each image is decoded and checked; what cannot be used is refused with its reason, and the rest goes "
        "on. What is in the store already stays as it is.\n\nSources, and what has to lie in PATH:\n" + _sources(),
        "emo prep import folder ~/photos --into store --licence CC-BY-4.0\n"
        "  emo prep import emoset ~/EmoSet-118K --into store --refusals refused.jsonl\n"
        "  emo prep import labelled ~/mine --labels words.yaml --into store --name mine",
    )
    parser.add_argument("source", metavar="SOURCE", help=f"one of {', '.join(_NAMES)}")
    parser.add_argument(
        "path", metavar="PATH", help="a folder; for urls the list of addresses, for labelled also a CSV, for world a YAML file"
    )
    parser.add_argument(
        "--into", type=output_path, required=True, metavar="STORE", help="directory of the store; made if it is missing"
    )
    parser.add_argument(
        "--name", help="name of the source in the records; only for folder, urls and labelled (default: that word)"
    )
    parser.add_argument("--licence", help="licence of all images, e.g. CC-BY-4.0")
    parser.add_argument(
        "--labels",
        metavar="MAP",
        help="YAML file that maps each label of the source to one of the eight emotions, or to null (default: the eight by name)",
    )
    parser.add_argument(
        "--refusals",
        metavar="FILE",
        help="write every refusal and every file passed over to this file, as JSON lines with file, line and reason",
    )
    parser.add_argument(
        "--against",
        nargs="+",
        default=[],
        metavar="OTHER",
        help="say which of the images also stand in these tars, folders of images or stores, by the SHA-256 of their files: a test set "
        "must share none with what a model was trained on (`emo overlap` asks the same later)",
    )
    from data_prep.sources.urls import UrlSource, add_download_arguments, download_limits

    add_download_arguments(parser)
    parser.modes(
        {
            ALWAYS: ("into", "refusals", "against"),
            "a folder": ("name",),
            "urls": ("name", "allow_private", "concurrency", "per_host_rate", "timeout", "max_bytes"),
            "images with labels of your own": ("name", "labels"),
            "sources of images that others made": ("licence",),
        }
    )
    args = parser.parse_args(argv)
    active = ["sources of images that others made"] if args.source != "world" else []
    active += {"folder": ["a folder"], "urls": ["urls"], "labelled": ["images with labels of your own"]}.get(args.source, [])
    parser.refuse_unused(argv, *active)
    from data_prep.store.items import one_line
    from data_prep.store.store import ImportReport, Store
    from emo_lightning.core.overlap import ImageCollection, overlap_lines, pictures_of

    others = [pictures_of(other) for other in args.against]
    source = _source(args.source, args.licence, args.name, args.labels)
    limits = download_limits(args)
    with Store(args.into, write=True) as store, progress_bars() as progress:
        if isinstance(source, UrlSource):
            source.limits, source.known = limits, store.ledger.item_keys(source.name)
        task = progress.add_task("import", total=None)

        def on_item(report: ImportReport) -> None:
            progress.update(task, advance=1, description=f"import: {report.added} added, {report.refused} refused")

        taken = ImageCollection(args.source)
        with refusals_written(source.read(Path(args.path)), args.refusals) as items:
            report = store.import_items(_kept_in_mind(items, taken) if others else items, on_item)
        if isinstance(source, UrlSource):
            report.known += source.skipped
    for refusal in report.refusals:
        say(f"refused {refusal}", file=sys.stderr)
    if report.refused > len(report.refusals):
        say(f"… and {report.refused - len(report.refusals)} more refused", file=sys.stderr)
    for passed in report.passed_over_first:
        say(f"passed over {passed}", file=sys.stderr)
    if (named := sum(report.passed_over.values())) > len(report.passed_over_first):
        say(f"… {named} files passed over in all; --refusals FILE names every one", file=sys.stderr)
    if not report.read and not report.known:
        msg = f"{args.path}: there is nothing of the source {args.source} in it"
        raise SourceError(msg)
    say(f"added {report.added}, known already {report.known}, changed since and left as they were {report.changed}")
    say(
        f"read {report.read}: mapped to one of the eight {report.labelled}, without a label {report.unlabelled}, "
        f"repeated rows {report.repeated}, refused {report.refused}"
    )
    for reason, count in report.reasons.most_common(_REASONS):
        say(f"  {count} × {one_line(reason)}")
    if len(report.reasons) > _REASONS:
        say(f"  … and {len(report.reasons) - _REASONS} more kinds of reasons")
    if report.passed_over:
        say(f"passed over {named} files that are none of the source's images")
        for reason, count in report.passed_over.most_common(_REASONS):
            say(f"  {count} × {one_line(reason)}")
    for line in overlap_lines(taken, others, _REASONS):
        say(one_line(line))
    return 0 if report.added or report.known else 2


def _kept_in_mind(items: Iterator[SourceItem | SourceRefusal], taken: ImageCollection) -> Iterator[SourceItem | SourceRefusal]:
    """The same items; the marks of every image that passes are kept."""
    for item in items:
        if isinstance(item, SourceItem):
            taken.add(item.key, item.image)
        yield item


def _source(name: str, licence: str | None, source_name: str | None, labels: str | None) -> Source:
    if name == "world":
        from data_prep.demo.world_source import WorldSource

        return WorldSource()
    if name not in SOURCES:
        msg = f"unknown source {name!r}; allowed: {', '.join(_NAMES)}"
        raise SourceError(msg)
    return open_source(
        name, licence=licence, source_name=source_name, labels=EMOTION_BY_NAME if labels is None else read_label_map(labels)
    )


def _sources() -> str:
    layouts = {
        "folder": "a tree of images, whose folders mean nothing",
        "urls": "a list of addresses to download: text (one a line), CSV or JSONL with a column `url`",
        "labelled": "a folder for each label, below train/, val/ and test/ or not; or a CSV with columns image, emotion and, if known, split",
        "world": "the drawn demo world: a YAML file with a `world` key",
        **{name: layout for name, (_, layout) in PUBLISHED.items()},
    }
    return "\n".join(f"  {name:<11} {layouts.get(name, '')}".rstrip() for name in _NAMES)


@contextlib.contextmanager
def refusals_written(
    items: Iterator[SourceItem | SourceRefusal], path: str | None
) -> Iterator[Iterator[SourceItem | SourceRefusal]]:
    """The same items; every refusal that passes is written down as well."""
    if path is None:
        yield items
        return
    with contextlib.ExitStack() as stack:
        try:
            temporary = stack.enter_context(replacing(path))
            out = stack.enter_context(open(temporary, "w", encoding="utf-8", errors="backslashreplace"))
        except OSError as error:
            msg = f"--refusals {path}: cannot be written: {error.strerror}"
            raise SourceError(msg) from None

        def passing() -> Iterator[SourceItem | SourceRefusal]:
            for item in items:
                if isinstance(item, SourceRefusal) and not isinstance(item, Repeat):
                    out.write(json.dumps(dataclasses.asdict(item), ensure_ascii=False) + "\n")
                yield item

        yield passing()
