"""`emo prep dedup`: find images that show the same, and keep one of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from data_prep.commands.console import add_engine_arguments, add_store_argument, new_parser
from emo_lightning.core.options import ALWAYS, Real, Whole
from emo_lightning.core.progress import progress_bars
from emo_lightning.core.terminal import say, say_json

if TYPE_CHECKING:
    from rich.progress import TaskID

    from data_prep.dedup.run import DedupReport

_CHAINS, _MEMBERS = 10, 12
"""Chains that are printed, the largest first, and items of each."""
_SUSPICIOUS = 0.01
"""Share of all items from which on one group is too large to be true."""


def main(argv: list[str]) -> int:
    """Find images that show the same, and keep one of each."""
    parser = new_parser(
        "dedup",
        "Find images that show the same, and keep one of each; the others are neither annotated nor exported. All pairs are compared: by "
        "their bytes, by a perceptual hash, by their pixels where one may be a crop of the other, and by embeddings where --model is "
        "given. Images that are merely similar are kept, but in one split. Where look-alikes make a chain, those far from the one that is "
        "kept are kept, too, and every chain is shown.\n\n"
        "Nothing is deleted: a run with other settings replaces the result of an earlier one.",
        "emo prep dedup store --priority emoset,artemis,urls",
    )
    add_store_argument(parser)
    parser.add_argument(
        "--threshold",
        type=Whole(0, 64),
        default=6,
        metavar="BITS",
        help="two images are duplicates if at most so many of the 64 bits of their hashes differ (default: 6)",
    )
    parser.add_argument(
        "--near",
        type=Whole(0, 64),
        metavar="BITS",
        help="they stay in one split if at most so many differ (default: threshold + 4)",
    )
    parser.add_argument(
        "--chain",
        type=Whole(0, 64),
        metavar="BITS",
        help="an image that is like the one that is kept only through others between them is left out if at most so many bits differ, and "
        "kept otherwise; 64: all that hang together are one (default: threshold + 4)",
    )
    parser.add_argument("--no-crops", action="store_true", help="do not look for images that show a part of another")
    parser.add_argument(
        "--correlation",
        type=Real(0, 1, above=True),
        default=0.88,
        metavar="R",
        help="a crop is a duplicate if its pixels correlate at least so well with the part that it shows, 0–1 (default: 0.88)",
    )
    parser.add_argument(
        "--near-correlation",
        type=Real(0, 1, above=True),
        metavar="R",
        help="it stays in one split from this on (default: correlation − 0.08)",
    )
    parser.add_argument(
        "--model",
        help="also compare embeddings of this model of transformers (hub name or folder), e.g. a DINOv2 or a CLIP",
    )
    parser.add_argument(
        "--cosine",
        type=Real(0, 1, above=True),
        default=0.97,
        metavar="C",
        help="two images are duplicates if the cosine of their embeddings is at least this, 0–1 (default: 0.97)",
    )
    parser.add_argument(
        "--near-cosine",
        type=Real(0, 1, above=True),
        metavar="C",
        help="they stay in one split from this on (default: cosine − 0.04)",
    )
    parser.add_argument(
        "--priority",
        default="",
        metavar="A,B",
        help="sources whose images are kept, the most important first (default: none; then the largest image is kept)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, for programs; it names every item that is left out")
    add_engine_arguments(parser)
    embeddings, crops = "embeddings (--model)", "crops (without --no-crops)"
    parser.modes(
        {
            ALWAYS: (
                *("threshold", "near", "chain", "no_crops", "model", "priority", "json"),
                *("engine", "ray_address", "ray_without_token"),
            ),
            embeddings: ("cosine", "near_cosine"),
            crops: ("correlation", "near_correlation"),
        }
    )
    args = parser.parse_args(argv)
    parser.refuse_unused(argv, *([embeddings] if args.model else []), *([] if args.no_crops else [crops]))

    from data_prep.dedup.run import DedupSettings, dedup
    from data_prep.engine import chosen_engine
    from data_prep.store.store import Store

    settings = DedupSettings(
        threshold=args.threshold,
        near=args.threshold + 4 if args.near is None else args.near,
        chain=args.threshold + 4 if args.chain is None else args.chain,
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
        tasks: dict[str, TaskID] = {}

        def on_progress(step: str, done: int, total: int) -> None:
            if step not in tasks:
                tasks[step] = progress.add_task(step, total=total)
            progress.update(tasks[step], completed=done)

        report = dedup(store, settings, embedder, on_progress, engine)
    if args.json:
        say_json(_as_json(report))
    else:
        _print_report(report)
    return 0


class DroppedJSON(TypedDict):
    """An item that is left out."""

    item: str
    kept: str
    how: str
    distance: float


class MemberJSON(TypedDict):
    """An item of a chain; `how` is `kept`, `split off` (kept, too), or why it is left out for `kept`."""

    item: str
    kept: str
    how: str
    distance: float


class DedupJSON(TypedDict):
    """What `--json` prints."""

    items: int
    images: int
    hashed: int
    plain: int
    registered: int
    embedded: int
    kept: int
    left_out: dict[str, int]
    split_off: int
    groups: int
    largest_group: int
    near_groups: int
    largest_near_group: int
    groups_split_by_source: int
    duplicates: list[DroppedJSON]
    chains: list[list[MemberJSON]]


def _as_json(report: DedupReport) -> DedupJSON:
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
        "split_off": sum(len(chain.split_off) for chain in decision.chains),
        "groups": decision.sizes.total(),
        "largest_group": max(decision.sizes, default=0),
        "near_groups": decision.near_sizes.total(),
        "largest_near_group": max(decision.near_sizes, default=0),
        "groups_split_by_source": report.split_by_source,
        "duplicates": [{"item": d.item_id, "kept": d.kept_id, "how": d.how, "distance": d.distance} for d in decision.dropped],
        "chains": [
            [
                {
                    "item": member.item_id,
                    "kept": member.kept_id,
                    "how": member.how or ("split off" if number else "kept"),
                    "distance": member.distance,
                }
                for number, member in enumerate(chain.members)
            ]
            for chain in decision.chains
        ],
    }


def _print_report(report: DedupReport) -> None:
    said = _as_json(report)
    say(
        f"{said['items']} items, {said['images']} different images; {said['hashed']} hashed now, {said['plain']} of one plain colour"
    )
    if said["registered"]:
        say(f"{said['registered']} pairs looked at closely, pixel by pixel")
    if said["embedded"]:
        say(f"{said['embedded']} embedded now")
    how = ", ".join(f"{name} {n}" for name, n in said["left_out"].items())
    say(f"kept {said['kept']}, left out {len(said['duplicates'])}" + (f" ({how})" if how else ""))
    say(f"groups of duplicates {said['groups']}, the largest of {said['largest_group']} items")
    say(f"groups that stay in one split {said['near_groups']}, the largest of {said['largest_near_group']} items")
    _print_chains(said)
    if said["groups_split_by_source"]:
        say(f"in {said['groups_split_by_source']} of them the sources name different splits")
    if said["largest_near_group"] > max(10, _SUSPICIOUS * said["items"]):
        say("such a large group is rarely true: lower --threshold or --near, and run this again")


def _print_chains(said: DedupJSON) -> None:
    """Groups that hang together through images between them: who is kept, and how far the others are from it."""
    chains = sorted(said["chains"], key=len, reverse=True)
    if not chains:
        return
    say(
        f"chains {len(chains)}: groups in which not all are like the one that is kept; {said['left_out'].get('chain', 0)} near it are left "
        f"out, {said['split_off']} too far from it are split off and kept (--chain)"
    )
    for chain in chains[:_CHAINS]:
        for member in chain[:_MEMBERS]:
            what = {"kept": "kept", "split off": f"split off, {member['distance']:g} bits from the first"}.get(
                member["how"], f"  left out for {member['kept']}: {member['how']} {member['distance']:g}"
            )
            say(f"  {member['item']}  {what}")
        if len(chain) > _MEMBERS:
            say(f"  and {len(chain) - _MEMBERS} more of this chain")
        say("  --")
    if len(chains) > _CHAINS:
        say(f"  and {len(chains) - _CHAINS} more chains; --json has them all")
