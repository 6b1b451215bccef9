"""`emo serve FOLDER`: a page and an API for a model, on this machine."""

from __future__ import annotations

import argparse
import os
import re
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from emo_lightning.commands.arguments import DEFAULT_MODEL, new_parser
from emo_lightning.core.errors import InputError
from emo_lightning.core.options import Parser, Real, Whole
from emo_lightning.core.terminal import say

if TYPE_CHECKING:
    from socket import socket

    from emo_lightning.serve.settings import Limits

TOKEN_VARIABLE = "EMO_SERVE_TOKEN"
"""Variable of the environment with the secret: a command line is seen by everybody on the machine."""
ABOUT = """\
Serve a model to people and programs. The page shows the emotion of a picture with all that the model says and points at; /v1/explain,
/v1/embeddings and /v1/chat/completions answer as OpenAI's API does, so that its clients work with them (base_url, api_key = the token).
Requests that come at the same time are answered by one call of the model. Ctrl-C or SIGTERM ends it, once what was asked is answered."""
EXAMPLES = """\
examples:
  emo serve emotion-model
  emo serve emotion-model --index photos.index --port 8390
  EMO_SERVE_TOKEN=$(cat secret) emo serve emotion-model --host 0.0.0.0 --name emo.example.org"""


def main(argv: list[str]) -> int:
    """Serve until interrupted."""
    args = _parser().parse_args(argv)
    token = _token(args)
    try:
        import fastapi  # noqa: F401 - is it there?
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        msg = f"emo serve needs {error.name}, which is not installed: pip install 'emo-lightning[serve]'"
        raise InputError(msg) from None
    from emo_lightning.serve.server import listen
    from emo_lightning.serve.settings import MEBIBYTE, Limits

    limits = Limits(
        batch_size=args.batch_size,
        wait=args.wait_ms / 1000,
        queue=args.queue,
        body=args.max_body_mb * MEBIBYTE,
        bodies=max(Limits.bodies, 2 * args.max_body_mb * MEBIBYTE),
        max_new_tokens=args.max_new_tokens,
        grace=args.grace,
    )
    # Before the minutes that a model takes.
    with listen(args.host, args.port) as bound:
        return _serve(args, limits, token, bound)


def _parser() -> Parser:
    parser = new_parser("serve", ABOUT, EXAMPLES)
    parser.add_argument(
        "model",
        nargs="?",
        type=Path,
        default=Path(DEFAULT_MODEL),
        metavar="FOLDER",
        help=f"model folder, or hub id (default: {DEFAULT_MODEL})",
    )
    parser.add_argument(
        "--index", metavar="DIR", help="images to search, of `emo index build`: a folder or a URL (default: none)"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: 127.0.0.1, this machine alone)")
    parser.add_argument("--port", type=Whole(0, 65535), default=8390, help="port; 0 takes a free one (default: 8390)")
    parser.add_argument(
        "--name",
        action="append",
        default=[],
        metavar="HOST",
        help="a name by which requests may ask for this server, beside its addresses and localhost; may be given several times",
    )
    parser.add_argument("--token", help=f"the secret that requests show (default: ${TOKEN_VARIABLE}, or a new one)")
    parser.add_argument("--open", action="store_true", help="no secret: whoever reaches the port may ask")
    parser.add_argument("--masks", metavar="SAM", help="also give the pixels of every box, by this SAM (folder or hub id)")
    parser.add_argument("--device", help="torch device (default: a GPU where there is one)")
    parser.add_argument("--batch-size", type=Whole(1, 4096), default=16, help="pictures of one call of the model (default: 16)")
    parser.add_argument(
        "--wait-ms",
        type=Real(0, 60_000),
        default=5,
        help="milliseconds that a picture waits for others to be called with (default: 5)",
    )
    parser.add_argument(
        "--queue", type=Whole(1, 65536), default=256, help="pictures on their way; more are answered by 503 (default: 256)"
    )
    parser.add_argument(
        "--max-body-mb", type=Whole(1, 1024), default=32, help="megabytes of a request; a larger one is refused (default: 32)"
    )
    parser.add_argument("--max-new-tokens", type=Whole(1), default=256, help="tokens that one answer may have (default: 256)")
    parser.add_argument(
        "--grace", type=Whole(0, 3600), default=30, help="seconds to answer in what was asked before the end (default: 30)"
    )
    return parser


def _token(args: argparse.Namespace) -> str | None:
    if args.open:
        if args.token is not None:
            msg = "--token and --open: expected one of them"
            raise InputError(msg)
        return None
    given = args.token if args.token is not None else os.environ.get(TOKEN_VARIABLE) or secrets.token_urlsafe(24)
    if not re.fullmatch(r"[\w.~-]{16,200}", given, re.ASCII) or not re.search(r"[^.]", given):
        msg = f"{'--token' if args.token is not None else TOKEN_VARIABLE}: expected 16 to 200 letters, digits, or - . _ ~, as it stands in addresses"
        raise InputError(msg)
    return given


def _id(model: Path) -> str | None:
    """What a model is called; None: as its folder.

    A model of the hub lies in a folder that is named by its commit, and the stage of a run in one that is called `model` in every run.
    """
    if not model.is_dir():
        return str(model)
    folder = model.absolute()
    return f"{folder.parent.name}-{folder.name}" if (folder.parent / "experiment.yaml").is_file() else None


def _serve(args: argparse.Namespace, limits: Limits, token: str | None, bound: socket) -> int:
    from emo_lightning.core.endings import exit_code
    from emo_lightning.experiment.advice import silence_advice
    from emo_lightning.inference.bundle import bundle_fingerprint, bundle_folder
    from emo_lightning.inference.model import EmotionModel
    from emo_lightning.serve.app import make_app
    from emo_lightning.serve.door import Gate
    from emo_lightning.serve.server import Server, address_of
    from emo_lightning.serve.service import Service

    silence_advice()
    folder, index = bundle_folder(args.model), None
    if args.index is not None:
        from emo_lightning.search import SearchIndex

        # Before the model, which takes longer: only its files are read for that.
        index = SearchIndex.open(args.index, bundle_fingerprint(folder))
    model = EmotionModel(folder, args.device)
    masks = None
    if args.masks is not None:
        from data_prep.grounding.transformers_backend import load_segmenter

        masks = load_segmenter(args.masks, str(model.device)).masks_of
    service = Service(model, limits, index, masks, _id(args.model))
    names = {name.lower() for name in (*args.name, args.host)}
    server = Server(make_app(service, Gate(token, frozenset(names))), limits.grace, service.batcher.hurry)
    where = address_of(bound)
    say(f"{service.about.id}: embeddings of {service.about.des_dim} numbers, on {model.device}")
    say(f"open http://{where}/{token + '/' if token else ''}")
    say(
        f"API: base_url http://{where}/v1" + (f", api_key {token}" if token else "; whoever reaches the port may ask"),
        flush=True,
    )
    server.run([bound])
    if server.ended_by is None:
        return 0
    say(f"ended by {server.ended_by.name}", file=sys.stderr)
    return exit_code(server.ended_by)
