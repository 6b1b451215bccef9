"""`emo check`: whether tars are whole."""

from __future__ import annotations

from emo_lightning.commands.arguments import new_parser
from emo_lightning.core.options import Parser
from emo_lightning.core.terminal import say, say_json

EXAMPLES = """examples:
  emo check data
  emo check 'others/*.tar' s3://bucket/mine/ --decode --json
"""

ABOUT = """\
Read every byte of tars and hold it against all that is known of it: the manifest's SHA-256 of each tar, the CRC-32 of each member in the
index beside it, the SHA-256 of each image in its record, and the form of each record. All faults are named, one a line.
A tar has no checksum of what its members hold. Of one that somebody else made, without a manifest and before it was first opened here,
--decode finds the images that are no images any more; a flipped byte in one that still decodes leaves no trace."""
_SHOWN = 100
"""Faults that are printed."""


def parser() -> Parser:
    """The command's arguments."""
    parser = new_parser("check", ABOUT, EXAMPLES)
    parser.add_argument("tars", nargs="+", metavar="TARS", help="tars, folders, patterns or URLs")
    parser.add_argument("--decode", action="store_true", help="decode each image, too")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    return parser


def main(argv: list[str]) -> int:
    """Run `emo check`; the exit code is 2 where something is not as it should be."""
    args = parser().parse_args(argv)
    from emo_lightning.data.checking import check_tars

    found = check_tars(args.tars, decode=args.decode)
    if args.json:
        say_json(found.as_json())
        return 2 if found.faults else 0
    for fault in found.faults[:_SHOWN]:
        say(fault)
    if (more := len(found.faults) - _SHOWN) > 0:
        say(f"and {more:,} more (--json names all)")
    decoded = f", {found.decoded:,} images decoded" if args.decode else ""
    say(f"{found.shards:,} tars, {found.samples:,} samples, {len(found.faults):,} faults{decoded}")
    if found.unnamed and not args.decode:
        say(
            f"no manifest names {found.unnamed:,} of the tars: damage from before their index was made shows with --decode, if at all"
        )
    return 2 if found.faults else 0
