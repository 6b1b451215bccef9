"""`emo prep backup`: copy a store, also while a pass writes to it."""

from __future__ import annotations

import sys

from data_prep.commands.console import add_json_argument, add_store_argument, new_parser
from emo_lightning.core.options import output_path
from emo_lightning.core.progress import progress_bars
from emo_lightning.core.terminal import say, say_json


def main(argv: list[str]) -> int:
    """Copy a store, also while a pass writes to it."""
    parser = new_parser(
        "backup",
        "Copy a store into a folder: its ledger with every reply that was paid for up to now, and its images. A pass may write to the store "
        "meanwhile. Run again with the same folder, it copies only images that are new. The folder is a store itself: to restore, use it "
        "in the place of the lost one.\n\n"
        "Do not copy the ledger of a store in use with cp or rsync: replies that stand in its journal (ledger.sqlite-wal) would be lost.\n\n"
        "Exit status: 0 done, 2 something is wrong with the store or the folder (it says what).",
        "emo prep backup store /mnt/other-disk/store-backup",
    )
    add_store_argument(parser)
    parser.add_argument(
        "folder",
        type=output_path,
        metavar="DIR",
        help="an empty folder, one that is not there yet, or an earlier backup of this store",
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="read the images that the backup has already, too, and replace those that are damaged",
    )
    add_json_argument(parser)
    args = parser.parse_args(argv)
    from data_prep.provider.budget import NANO_PER_DOLLAR
    from data_prep.store.backup import backup

    with progress_bars() as progress:
        task = progress.add_task("images", total=None)
        report = backup(args.store, args.folder, verify=args.verify, on_image=lambda: progress.update(task, advance=1))
    if args.json:
        say_json(vars(report))
    else:
        say(
            f"{args.folder}: {report.items} images, {report.replies} replies, ${report.cost_nano / NANO_PER_DOLLAR:.6f} paid for them"
        )
        say(f"copied {report.copied} images now, {report.there} were there")
        if report.foreign:
            say(f"{report.foreign} files among the images are none of the store's, and were not copied")
    if report.wrong:
        say("\n".join(report.wrong[:20]), file=sys.stderr)
        say(f"error: {len(report.wrong)} images are missing or damaged; all else is in the backup", file=sys.stderr)
        return 2
    return 0
