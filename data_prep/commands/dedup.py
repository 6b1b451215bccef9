"""`emo prep dedup`: find images that show the same, and keep one of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from data_prep.commands.console import add_engine_arguments, new_parser
from emo_lightning.core.progress import progress_bars

if TYPE_CHECKING:
    from data_prep.dedup.run import DedupReport

_SUSPICIOUS = 0.01
"""Share of all items from which on one group is too large to be true."""


def main(argv: list[str]) -> int:
    """Find images that show the same, and keep one of each."""
    parser = new_parser(
        "dedup",
        "Find images that show the same (equal bytes, a perceptual hash over all pairs, the pixels of what may be a crop, embeddings\n"
        "where a model is given) and keep one of each; the others are neither annotated nor exported. What is merely alike stays in one\n"
        "split. Nothing is deleted: another run with other settings gives what it would have given at first.",
        "emo prep dedup store --priority emoset,artemis,urls",
    )
    parser.add_argument("store")
    parser.add_argument("--threshold", type=int, default=6, help="bits of 64 up to which images are duplicates (default: 6)")
    parser.add_argument("--near", type=int, help="bits up to which images stay in one split (default: threshold + 4)")
    parser.add_argument("--no-crops", action="store_true", help="do not look for images that show a part of another")
    parser.add_argument(
        "--correlation",
        type=float,
        default=0.88,
        help="of a crop's pixels with its place, from which on duplicates (default: 0.88)",
    )
    parser.add_argument("--near-correlation", type=float, help="from which on in one split (default: correlation − 0.08)")
    parser.add_argument(
        "--model", help="also compare embeddings of this transformers model (name or folder), e.g. DINOv2 or CLIP"
    )
    parser.add_argument("--cosine", type=float, default=0.97, help="of embeddings, from which on duplicates (default: 0.97)")
    parser.add_argument("--near-cosine", type=float, help="from which on in one split (default: cosine − 0.04)")
    parser.add_argument("--priority", default="", help="sources whose images are kept, foremost first, separated by commas")
    parser.add_argument("--json", action="store_true", help="for programs; names every item that is left out")
    add_engine_arguments(parser)
    args = parser.parse_args(argv)
    import json

    from data_prep.dedup.run import DedupSettings, dedup
    from data_prep.engine import chosen_engine
    from data_prep.store.store import Store

    settings = DedupSettings(
        threshold=args.threshold,
        near=args.threshold + 4 if args.near is None else args.near,
        crops=not args.no_crops,
        correlation=args.correlation,
        near_correlation=args.correlation - 0.08 if args.near_correlation is None else args.near_correlation,
        cosine=args.cosine,
        near_cosine=args.cosine - 0.04 if args.near_cosine is None else args.near_cosine,
        priority=tuple(source for source in args.priority.split(",") if source),
    )
    with Store(args.store, write=True, create=False) as store, chosen_engine(args) as engine, progress_bars() as progress:
        embedder = None
        if args.model:
            from data_prep.dedup.embeddings import Embedder

            embedder = Embedder(args.model)
        tasks: dict[str, Any] = {}

        def on_progress(step: str, done: int, total: int) -> None:
            if step not in tasks:
                tasks[step] = progress.add_task(step, total=total)
            progress.update(tasks[step], completed=done)

        report = dedup(store, settings, embedder, on_progress, engine)
    if args.json:
        print(json.dumps(_as_json(report)))
    else:
        _print_report(report)
    return 0


def _as_json(report: DedupReport) -> dict[str, Any]:
    decision = report.decision
    return {
        "items": report.items,
        "images": report.images,
        "hashed": report.hashed,
        "plain": report.plain,
        "registered": report.registered,
        "embedded": report.embedded,
        "kept": report.items - len(decision.dropped),
        "left_out": dict(sorted(report.how().items())),
        "groups": decision.sizes.total(),
        "largest_group": max(decision.sizes, default=0),
        "near_groups": decision.near_sizes.total(),
        "largest_near_group": max(decision.near_sizes, default=0),
        "groups_split_by_source": report.split_by_source,
        "duplicates": [{"item": d.item_id, "kept": d.kept_id, "how": d.how, "distance": d.distance} for d in decision.dropped],
    }


def _print_report(report: DedupReport) -> None:
    said = _as_json(report)
    print(
        f"{said['items']} items, {said['images']} different images; {said['hashed']} hashed now, {said['plain']} of one plain colour"
    )
    if said["registered"]:
        print(f"{said['registered']} pairs looked at closely, pixel by pixel")
    if said["embedded"]:
        print(f"{said['embedded']} embedded now")
    how = ", ".join(f"{name} {n}" for name, n in said["left_out"].items())
    print(f"kept {said['kept']}, left out {len(said['duplicates'])}" + (f" ({how})" if how else ""))
    print(f"groups of duplicates {said['groups']}, the largest of {said['largest_group']} items")
    print(f"groups that stay in one split {said['near_groups']}, the largest of {said['largest_near_group']} items")
    if said["left_out"].get("chain"):
        print("chain: like the one that is kept only through other images; look at them with --json")
    if said["groups_split_by_source"]:
        print(f"in {said['groups_split_by_source']} of them the sources name different splits")
    if said["largest_near_group"] > max(10, _SUSPICIOUS * said["items"]):
        print("such a large group is rarely true: lower --threshold or --near, and run this again")
