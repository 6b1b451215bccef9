"""`emo prep export`: write WebDataset tars, a dataset card and a manifest."""

from __future__ import annotations

from data_prep.commands.console import add_images_argument, add_store_argument, new_parser, print_manifest
from emo_lightning.core.options import Whole


def main(argv: list[str]) -> int:
    """Write WebDataset tars, a dataset card and a manifest."""
    parser = new_parser(
        "export",
        "Write the valid records of a store and their images as WebDataset tars, with a dataset card (README.md) and a manifest. An image "
        "keeps the split that its source gives. The others are assigned to splits evenly per emotion; images that belong together stay "
        "together, and nothing moves when images are added later.",
        "emo prep export store tars --name mine\n  emo prep export store s3://bucket/mine --name mine\n"
        "  emo prep export store open --licences CC-BY-4.0,CC0-1.0\n"
        "  emo prep export store references --labels source --sources emoset",
    )
    add_store_argument(parser)
    parser.add_argument(
        "out",
        help="directory of the tars, or a URL that takes files (s3://bucket/folder, gs://…); for a URL all is made in TMPDIR first, and the "
        "manifest is written last",
    )
    parser.add_argument("--name", default="emo", help="first part of the shard names (default: emo)")
    parser.add_argument(
        "--samples-per-shard", type=Whole(1), default=1000, metavar="N", help="most images in one tar (default: 1000)"
    )
    parser.add_argument(
        "--config", help="YAML of the pass; its key `splits` has the shares of train, val and test (default: 0.9, 0.05, 0.05)"
    )
    parser.add_argument(
        "--licences",
        type=_names,
        default=(),
        metavar="A,B",
        help="only images with these licences (`unknown`: without one)",
    )
    parser.add_argument("--exclude-licences", type=_names, default=(), metavar="A,B", help="no images with these licences")
    parser.add_argument("--sources", type=_names, default=(), metavar="A,B", help="only images of these sources")
    parser.add_argument(
        "--labels",
        choices=("annotations", "source"),
        default="annotations",
        help="what the records say: our annotations, or what the sources themselves say, to evaluate a model against "
        "(default: annotations)",
    )
    parser.add_argument(
        "--resplit", action="store_true", help="forget the splits that earlier exports assigned, and assign them anew"
    )
    parser.add_argument(
        "--keep-metadata",
        action="store_true",
        help="leave in the image files what they say beside their pixels (place, time, camera, author); the dataset card says so. By "
        "default it is taken out, pixels and colour profiles untouched",
    )
    add_images_argument(parser, "the one that most of them have")
    args = parser.parse_args(argv)
    from data_prep.demo.config import DemoConfig
    from data_prep.export import Selection, export_store
    from data_prep.store.store import Store

    shares = DemoConfig.load(args.config).splits if args.config else None
    with Store(args.store, write=False) as store:
        manifest = export_store(
            store,
            args.out,
            args.name,
            samples_per_shard=args.samples_per_shard,
            shares=shares,
            selection=Selection(args.licences, args.exclude_licences, args.sources),
            labels=args.labels,
            resplit=args.resplit,
            keep_metadata=args.keep_metadata,
            images=args.images,
        )
    print_manifest(args.out, manifest)
    return 0


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())
