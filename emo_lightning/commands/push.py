"""`emo push`: an exported folder to the Hugging Face hub."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from emo_lightning.commands.arguments import new_parser
from emo_lightning.core.errors import InputError, MissingFileError, UserError
from emo_lightning.core.file_names import CARD_FILE
from emo_lightning.core.terminal import say

if TYPE_CHECKING:
    from collections.abc import Sequence


ABOUT = """\
Publish a folder that `emo export` wrote on the Hugging Face hub, as one commit. It is loaded first: what is not whole is not published.
The token is the hub client's own (`hf auth login`, or HF_TOKEN); HF_ENDPOINT names another hub. --dry-run says what would go, and sends
nothing."""

EXAMPLES = """\
examples:
  emo push emotion-model --repo ada/emotion-model --dry-run
  emo push emotion-model --repo ada/emotion-model --private"""


class PushError(UserError, ValueError):
    """The hub does not take the folder; says what it answered."""


def main(argv: list[str]) -> int:
    """Publish, or say what would be."""
    parser = new_parser("push", ABOUT, EXAMPLES)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="that emo export wrote")
    parser.add_argument("--repo", required=True, metavar="OWNER/NAME", help="id at the hub; it is made where there is none")
    parser.add_argument("--private", action="store_true", help="make it private, where it is made")
    parser.add_argument("--revision", help="branch to commit to (default: main)")
    parser.add_argument("--message", default="Upload an emotion model", help="of the commit (default: %(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="say what would go, and send nothing")
    args = parser.parse_args(argv)
    files = _checked(args.folder, args.repo)
    from huggingface_hub import constants

    if (licence := _licence(args.folder)) is None:
        say(
            f"note: {args.folder / CARD_FILE} names no licence, so nobody may use the model; emo export --licence ID writes one, or add "
            "`license: ID` to its head",
            file=sys.stderr,
        )
    size = sum(file.stat().st_size for file in files)
    if args.dry_run:
        for file in files:
            say(f"{file.stat().st_size:>14,}  {file.relative_to(args.folder)}")
        kind = "private" if args.private else "public"
        say(
            f"{len(files)} files, {size:,} bytes would go to {constants.ENDPOINT}/{args.repo} ({kind}, where it is new; licence: "
            f"{licence or 'none'}); nothing was sent"
        )
        return 0
    say(f"{_pushed(args.folder, args.repo, files, args.private, args.revision, args.message)}")
    return 0


def _licence(folder: Path) -> str | None:
    """That the card names, by the hub's own reading of it."""
    from huggingface_hub import ModelCard

    card = ModelCard((folder / CARD_FILE).read_text(encoding="utf-8", errors="replace"), ignore_metadata_errors=True)
    found = card.data.get("license")
    return str(found) if found else None


def _checked(folder: Path, repo: str) -> list[Path]:
    """The files that go, by name.

    Raises:
        UserError: the folder is none of ours, not whole, or would not load elsewhere.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    from emo_lightning.inference.bundle import BUNDLE_FILE, check_bundle, read_bundle

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        msg = f"--repo {repo}: {error}"
        raise InputError(msg) from None
    if repo.count("/") != 1:
        msg = f"--repo {repo}: expected OWNER/NAME"
        raise InputError(msg)
    if not (folder / BUNDLE_FILE).is_file() or not (folder / CARD_FILE).is_file():
        msg = f"{folder}: has no {BUNDLE_FILE} or no README.md; expected a folder that `emo export` wrote"
        raise MissingFileError(msg)
    bundle = read_bundle(folder)
    for part in bundle.parts.values():
        if Path(part).is_absolute() and not Path(part).is_relative_to(folder.resolve()):
            msg = f"{folder}: its part {part} lies outside of it; `emo export` puts all parts into one folder"
            raise InputError(msg)
    check_bundle(bundle, folder)
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))


def _pushed(folder: Path, repo: str, files: Sequence[Path], private: bool, revision: str | None, message: str) -> str:
    """The address of the commit."""
    import httpx2
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    api = HfApi()
    operations = [CommitOperationAdd(str(file.relative_to(folder)), file) for file in files]
    try:
        api.create_repo(repo, private=private or None, exist_ok=True)
        if revision is not None:
            api.create_branch(repo, branch=revision, exist_ok=True)
        done = api.create_commit(repo, operations, commit_message=message, revision=revision)
    except (HfHubHTTPError, LocalTokenNotFoundError, httpx2.HTTPError, OSError, ValueError) as error:
        msg = f"{api.endpoint}/{repo}: {' '.join(str(error).split())}"
        raise PushError(msg) from None
    return str(done.commit_url)
