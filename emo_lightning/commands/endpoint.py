"""`emo predict` with a model behind an endpoint: our questions, its replies, a predictions file like any other."""

from __future__ import annotations

import argparse
import hashlib
import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from functools import partial
from typing import Any

from data_prep.provider.budget import NANO_PER_DOLLAR, Tally
from data_prep.provider.failures import Failure, exit_status
from data_prep.provider.model_under_test import Endpoint, FreeRequest, UnderTest
from data_prep.provider.request import Picture
from emo_lightning.core.errors import InputError
from emo_lightning.core.progress import progress_bars
from emo_lightning.core.records import Prediction, Record
from emo_lightning.core.replies import UNREADABLE_KEY, Reason
from emo_lightning.core.terminal import say
from emo_lightning.data.chat import merge_predictions, objective, parse_answer, prompt
from emo_lightning.data.declared_boxes import DeclaredBoxes
from emo_lightning.data.images import grey
from emo_lightning.data.tar_index import TarIndex
from emo_lightning.tasks.prediction_files import PredictionFiles, summary_line, with_image_identity

_REASONS: dict[str, Reason] = {"refused": "refused", "cut": "cut off"}
"""Why there is no text, by the kind of the failure."""


def predict_at_endpoint(args: argparse.Namespace, objectives: Sequence[str]) -> int:
    """Ask, and write the predictions file; returns the exit status.

    Args:
        args: of `emo predict`.
        objectives: what is asked of each image.
    """
    config = _config(args)
    index = TarIndex.open(args.inputs)
    if args.limit is not None:
        index = index.take(range(min(args.limit, len(index))))
    files = PredictionFiles(args.out)
    with Endpoint(config, args.store, args.budget, args.resend_unknown) as endpoint:
        requests = questions(index, objectives, endpoint.request, args.blind)
        say(endpoint.estimate(requests).text())
        if args.estimate:
            return 0
        files.begin(about(config, objectives, args.blind))
        with _progress(len(requests)) as advance:
            answers = endpoint.ask(requests, advance)
    tally = answers.tally
    say(f"requests {tally.requests}, from the ledger {tally.cached}, cost of this run ${tally.cost_nano / NANO_PER_DOLLAR:.6f}")
    for how in sorted(tally.adapted):
        say(how)
    if answers.stopped:
        left = len(requests) - len(answers.replies)
        why = "the budget was reached" if answers.by_budget else "stopped"
        say(f"{why}: {left} questions are left; the same command goes on")
        return exit_status(stopped=True, by_budget=answers.by_budget)
    found = predictions(index, objectives, answers.replies, config, answers.cut)
    files.append(0, [with_image_identity(prediction, record) for prediction, record in found])
    say(f"{summary_line(files.finish())}: {args.out}")
    missing = Counter(reply.kind for reply in answers.replies.values() if isinstance(reply, Failure))
    for kind, count in sorted(missing.items()):
        say(f"no reply ({kind}): {count} questions, counted as wrong{_advice(kind)}")
    return exit_status(stopped=False, by_budget=False, left=missing)


def _config(args: argparse.Namespace) -> UnderTest:
    pixels = {"min_pixels": args.min_pixels, "max_pixels": args.max_pixels}
    changed = {"boxes": args.boxes, **pixels}
    changed = {name: value for name, value in changed.items() if value is not None}
    config = UnderTest.load(args.endpoint).model_copy(update=changed) if args.endpoint else _named(args, changed)
    if args.allow_http:
        config = config.allowing_http()
    if config.boxes != "resized" and any(value is not None for value in pixels.values()):
        msg = "--min-pixels and --max-pixels say how an endpoint resizes images, for boxes in those coordinates: add --boxes resized"
        raise InputError(msg)
    if config.min_pixels > config.max_pixels:
        msg = f"--min-pixels {config.min_pixels} is more than --max-pixels {config.max_pixels}"
        raise InputError(msg)
    return config


def _named(args: argparse.Namespace, changed: Mapping[str, object]) -> UnderTest:
    given = {"base_url": args.base_url, "model": args.model, "api_key_env": args.api_key_env, **changed}
    if args.price:
        given["price"] = {"input": args.price[0], "output": args.price[1]}
    return UnderTest.of(given, "command line")


def _advice(kind: str) -> str:
    match kind:
        case "refused" | "invalid" | "cut":
            return ""
        case "unknown":
            return "; --resend-unknown asks them again (they may be paid twice)"
        case _:
            return "; the same command asks them again"


@contextmanager
def _progress(total: int) -> Iterator[Callable[[Tally], None]]:
    """A progress bar on a terminal; what it gives is called after each reply."""
    with progress_bars() as bars:
        task = bars.add_task("ask", total=total)
        yield lambda tally: bars.update(task, advance=1, description=f"ask: ${tally.cost_nano / NANO_PER_DOLLAR:.4f}")


def about(config: UnderTest, objectives: Sequence[str], blind: bool) -> dict[str, Any]:
    """What decides the answers (`PredictionFiles.begin`).

    Args:
        config: the model and its endpoint.
        objectives: what is asked.
        blind: grey in place of every image.
    """
    return {
        "_endpoint": config.base_url,
        "model": config.model,
        "revision": config.revision,
        "parameters": config.parameters,
        "boxes": [config.boxes, config.order, config.min_pixels, config.max_pixels],
        "blind": blind,
        "prompts": {name: prompt(objective(name).keys) for name in objectives},
    }


def questions(
    index: TarIndex, objectives: Sequence[str], request: Callable[[Picture, str], FreeRequest], blind: bool
) -> list[FreeRequest]:
    """The requests, image by image and objective by objective.

    Args:
        index: the images.
        objectives: what is asked of each.
        request: makes a request of a picture and a prompt.
        blind: grey in place of every image.
    """
    prompts = [prompt(objective(name).keys) for name in objectives]
    return [request(shown, text) for shown in _pictures(index, blind) for text in prompts]


def predictions(
    index: TarIndex,
    objectives: Sequence[str],
    replies: Mapping[int, str | Failure],
    config: UnderTest,
    cut: Set[int] = frozenset(),
) -> list[tuple[Prediction, Record]]:
    """The replies as predictions, each with its record; no reply at all stays None, with the reason in `provenance`.

    Args:
        index: the images that `questions` asked about.
        objectives: the same.
        replies: by the request's number: text, or why there is none.
        config: for the coordinates of boxes.
        cut: numbers of the replies that ended at the limit of tokens.
    """
    codec = DeclaredBoxes(config.boxes, config.order, config.min_pixels, config.max_pixels)
    found = []
    for row in range(len(index)):
        record = index.record(row)
        original = (record.width, record.height)
        parts = []
        for number in range(row * len(objectives), (row + 1) * len(objectives)):
            reply = replies[number]
            if isinstance(reply, str):
                part = parse_answer(reply, id=record.id, original=original, resized=codec.frame(original), codec=codec)
                if number in cut and UNREADABLE_KEY in part.provenance:
                    part.provenance[UNREADABLE_KEY] = "cut off"
                parts.append(part)
            else:
                why: dict[str, object] = {"reply": None, "problems": [f"no reply ({reply.kind}): {reply.message}"]}
                why[UNREADABLE_KEY] = _REASONS.get(reply.kind, "no reply")
                parts.append(Prediction(id=record.id, width=record.width, height=record.height, provenance=why))
        found.append((merge_predictions(parts), record))
    return found


def _pictures(index: TarIndex, blind: bool) -> Iterator[Picture]:
    greys: dict[tuple[int, int], bytes] = {}
    for row in range(len(index)):
        record = index.record(row)
        size = (record.width, record.height)
        if blind:
            if size not in greys:
                buffer = io.BytesIO()
                grey(size).save(buffer, "PNG")
                greys[size] = buffer.getvalue()
            data = greys[size]
            yield Picture(hashlib.sha256(data).hexdigest(), "png", partial(bytes, data), *size)
        else:
            # Read when it is sent, not before: the images of a large set do not fit into memory.
            extension = index.image_extension(row)
            yield Picture(record.sha256, extension, partial(_image_bytes, index, row), *size)


def _image_bytes(index: TarIndex, row: int) -> bytes:
    return index.image_bytes(row)[0]
