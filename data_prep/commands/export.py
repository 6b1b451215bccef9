"""`emo prep export`: write WebDataset tars and a manifest."""

from __future__ import annotations

from data_prep.commands.console import new_parser, print_manifest


def main(argv: list[str]) -> int:
    """Write WebDataset tars and a manifest."""
    parser = new_parser("export", "Write WebDataset tars and a manifest.", "emo prep export store tars --name mine")
    parser.add_argument("store")
    parser.add_argument("out", help="directory of the tars")
    parser.add_argument("--name", default="emo", help="first part of the shard names (default: emo)")
    parser.add_argument("--samples-per-shard", type=int, default=1000, help="images in one tar (default: 1000)")
    parser.add_argument("--config", help="YAML whose `splits` are used for images without a split (default: 0.9, 0.05, 0.05)")
    args = parser.parse_args(argv)
    from data_prep.config import PrepConfig
    from data_prep.export import export_store
    from data_prep.store import Store

    shares = PrepConfig.load(args.config).splits if args.config else None
    with Store(args.store, write=False) as store:
        manifest = export_store(store, args.out, args.name, samples_per_shard=args.samples_per_shard, shares=shares)
    print_manifest(args.out, manifest)
    return 0
