"""`emo overlap`: whether a test set and what a model was trained on hold the same images."""

from __future__ import annotations

from emo_lightning.commands.arguments import new_parser
from emo_lightning.core.options import Parser
from emo_lightning.core.terminal import say, say_json

EXAMPLES = """examples:
  emo overlap ~/EmoSet/image ~/INSETS/images
  emo overlap 'tars/mvei-test-*.tar' 'tars/emoset-train-*.tar' store --json
"""

ABOUT = """\
Find the images of a test set that also stand in what a model was trained on, by the SHA-256 of their files: of the bytes as stored, of the
file that they were made of where a record names it, and of a file in a folder without its metadata. Both sides are tars, folders of tars,
folders of images, or stores. A copy that others have scaled, cropped or compressed anew is another file, and is not found."""
_SHOWN = 20
"""Shared images that are printed for each of the others; --json names all."""


def parser() -> Parser:
    """The command's arguments."""
    parser = new_parser("overlap", ABOUT, EXAMPLES)
    parser.add_argument("test", metavar="TEST", help="the images that are scored: tars, a folder, a pattern, or a store")
    parser.add_argument("others", nargs="+", metavar="OTHER", help="what was trained on, in the same forms")
    parser.add_argument("--json", action="store_true", help="print JSON, which names every shared image, instead of text")
    return parser


def main(argv: list[str]) -> int:
    """Run `emo overlap`; the exit code is 2 where they share images."""
    args = parser().parse_args(argv)
    from emo_lightning.core.overlap import NOT_COMPARED, overlap_lines, pictures_of, shared

    test = pictures_of(args.test)
    others = [pictures_of(other) for other in args.others]
    both = [shared(test.found, other.found) for other in others]
    if args.json:
        say_json(
            {
                "test": test.name,
                "images": len(test.found),
                "not_read": [*test.unread, *(one for other in others for one in other.unread)],
                "others": [
                    {"name": other.name, "images": len(other.found), "shared": [pair._asdict() for pair in pairs]}
                    for other, pairs in zip(others, both, strict=True)
                ],
                "not_compared": NOT_COMPARED,
            }
        )
        return 2 if any(both) else 0
    for line in overlap_lines(test, others, _SHOWN):
        say(line)
    return 2 if any(both) else 0
