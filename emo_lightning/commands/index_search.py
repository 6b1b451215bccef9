"""What `emo index search` and `emo index info` print."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from emo_lightning.commands.arguments import DEFAULT_MODEL, check_output_file
from emo_lightning.core.errors import InputError
from emo_lightning.core.terminal import json_text, say, say_json
from emo_lightning.search.filters import Filters
from emo_lightning.search.hits import Hit
from emo_lightning.search.index import SearchIndex
from emo_lightning.search.like import like
from emo_lightning.search.query import QueryPoint, understood
from emo_lightning.search.rows import thumbnail_of

if TYPE_CHECKING:
    from emo_lightning.inference.model import EmotionModel
    from emo_lightning.report.hits_page import Card

_STEPS = 7


def search_and_show(args: argparse.Namespace) -> int:
    """Find images, and show them."""
    if args.like and args.to:
        msg = "--like and --to are two ways to go; choose one"
        raise InputError(msg)
    if args.steps is not None and args.at is not None:
        msg = "--steps walks the whole way, --at looks at one point of it; choose one"
        raise InputError(msg)
    if args.html is not None:
        check_output_file(args.html, "--html")
    emotions = None if args.emotion is None else [one.strip() for one in args.emotion.split(",")]
    where = Filters(emotions, args.intensity, args.where)
    index = SearchIndex.open(args.index)
    question = understood(index, args.query, lambda: _model(index, args.model, args.device), where, scene=bool(args.like))
    end = None
    if args.to is not None:
        end = understood(index, args.to, lambda: _model(index, args.model, args.device), where)
    asked = [question] if end is None else [question, end]
    notes = [note for one in asked for note in _notes(one)]
    hits = _found(args, index, question, end, where, notes)
    title = _title(args)
    if args.html is not None:
        _write_page(args.html, index, asked, hits, title, notes, way=end is not None and args.at is None)
    if args.json:
        for one in asked:
            if one.unlike is not None and one.unlike.is_unlike:
                say(_unlike(one), file=sys.stderr)
        known = [one.unlike.is_unlike for one in asked if one.unlike is not None]
        unlike = {"query_is_unlike": any(known)} if known else {}
        for number, hit in enumerate(hits, 1):
            say(json_text({"rank": number, **hit.as_json(), **unlike}))
        return 0
    _show(hits, title, notes, way=args.to is not None)
    if args.html is not None:
        say(f"page: {args.html}")
    return 0


def _notes(asked: QueryPoint) -> list[str]:
    """What is to be known of a question."""
    unlike = asked.unlike is not None and asked.unlike.is_unlike
    return [*([_unlike(asked)] if unlike else []), *([asked.note] if asked.note else [])]


def _unlike(asked: QueryPoint) -> str:
    return f"{asked.text} is unlike what the model of this index was trained on: take what is found for a guess"


def _found(
    args: argparse.Namespace, index: SearchIndex, question: QueryPoint, end: QueryPoint | None, where: Filters, notes: list[str]
) -> list[Hit]:
    start = question.start
    own = [start.id] if start.id is not None else []
    if args.like:
        answer = like(index, start, args.like, args.k, where, args.strength)
        notes.append(answer.scene)
        return answer.hits
    if end is not None:
        here, there = (one.vector if one.id is None else one.id for one in (start, end.start))
        if args.at is None:
            return index.path(here, there, args.steps or _STEPS, where)
        notes.append(f"at {args.at:g} of the way to {args.to}")
        without = [one for one in (start.id, end.start.id) if one is not None]
        return index.search(index.between(here, there, args.at), args.k, where, without=without, exact=args.exact)
    return index.search(start.vector, args.k, where, without=own, exact=args.exact)


def _model(index: SearchIndex, given: Path | None, device: str | None) -> EmotionModel:
    """The model of an index, for a picture."""
    from emo_lightning.experiment.advice import silence_advice
    from emo_lightning.inference.bundle import bundle_fingerprint, bundle_folder
    from emo_lightning.inference.model import EmotionModel

    name = given or index.identity.model or DEFAULT_MODEL
    folder = bundle_folder(name)
    if not folder.exists():
        msg = f"{name}: the model that made {index.place} is not there; --model FOLDER says where it is"
        raise InputError(msg)
    # Before the seconds that loading takes.
    index.require(bundle_fingerprint(folder), str(name))
    silence_advice()
    return EmotionModel(folder, device)


def _title(args: argparse.Namespace) -> str:
    if args.to is not None:
        return f"From {args.query} to {args.to}"
    return f"Like {args.query}, but {' and '.join(args.like)}" if args.like else f"Nearest to {args.query}"


def _show(hits: Sequence[Hit], title: str, notes: Sequence[str], *, way: bool) -> None:
    from emo_lightning.core.tables.table import Cell, Table, columns
    from emo_lightning.core.tables.terminal import show

    if not hits:
        say(f"{title}: nothing found; fewer conditions find more")
    else:
        headings = columns(
            ("rank", "#"),
            "id",
            "cosine",
            "emotion",
            "intensity",
            "triplet",
        )
        # It is typed again, or copied.
        headings[1] = replace(headings[1], whole=True)
        rows: list[list[Cell]] = [
            [number, hit.id, hit.cosine, _feeling(hit), _intensity(hit), _words(hit)] for number, hit in enumerate(hits, 1)
        ]
        # Above the table and not its title: it holds a path, and titles are broken to the table's width.
        say(title)
        order = "Along the way; cosine to the point of each step" if way else "Nearest first"
        show([Table("hits", order, headings, rows, digits=4)])
    for note in notes:
        say(note)


def _feeling(hit: Hit) -> str | None:
    """The emotion, with a mark where a model says it."""
    by = hit.text("emotion_by")
    return hit.emotion if hit.emotion is None or by == "record" else f"{hit.emotion} ({by})"


def _intensity(hit: Hit) -> str | None:
    if hit.intensity is None:
        return None
    level = hit.text("intensity_level")
    return f"{hit.intensity:g} ({level})" if level else f"{hit.intensity:g}"


def _words(hit: Hit) -> str | None:
    parts = [hit.text(name) for name in ("background", "attribute", "subject")]
    return " – ".join(part or "?" for part in parts) if any(parts) else None


def _write_page(
    out: Path,
    index: SearchIndex,
    asked: Sequence[QueryPoint],
    hits: Sequence[Hit],
    title: str,
    notes: Sequence[str],
    *,
    way: bool,
) -> None:
    from emo_lightning.report.hits_page import write_hits_page

    cards = [_card(index, hit, [f"cosine {hit.cosine:.4f}"]) for hit in hits]
    beside = [_asked(index, one) for one in asked]
    if way:
        # The ends of a way are the first and the last of it: images of the index have been found there, pictures of one's own stand before and
        # behind what has.
        ends = [
            replace(card, asked=True, lines=[*card.lines[:-1], name])
            for card, name in zip(beside, ("start", "end"), strict=True)
        ]
        first, last = (one.start.id is not None for one in asked)
        cards = [ends[0], *cards[first : len(cards) - last], ends[1]]
        beside = []
    write_hits_page(out, title, notes, [replace(card, asked=True) for card in beside], cards, way=way)


def _asked(index: SearchIndex, question: QueryPoint) -> Card:
    """What was asked with."""
    from emo_lightning.report.hits_page import Card

    if question.start.id is not None:
        return _card(index, index.get(question.start.id), ["asked with"])
    image = b"" if question.picture is None else thumbnail_of(question.picture)
    return Card(question.text, question.start.emotion, ["asked with"], image)


def _card(index: SearchIndex, hit: Hit, lines: list[str]) -> Card:
    from emo_lightning.report.hits_page import Card

    intensity = _intensity(hit)
    more = [_words(hit), f"intensity {intensity}" if intensity else None]
    image = index.thumbnail(hit.id) if hit.has_thumbnail else b""
    return Card(hit.id, hit.emotion, [*(one for one in more if one), *lines], image)


def show_info(place: str, *, as_json: bool) -> int:
    """Say what an index holds."""
    index = SearchIndex.open(place)
    found = index.info()
    if as_json:
        say_json(found, indent=1)
        return 0
    say(f"{place}: {found['images']} images, embeddings of {found['des_dim']} numbers")
    say(f"  model      {found['model'] or '(not named)'} (weights {str(found['weights'])[:12]})")
    emotions = found["emotions"]
    assert isinstance(emotions, dict)
    say(f"  emotions   {', '.join(f'{name} {count}' for name, count in emotions.items()) or 'none'}")
    say(f"  words      {found['with_words']} images have a background, {found['with_thumbnail']} a thumbnail")
    recall = found["recall"]
    search = "every image is compared" if recall is None else f"approximate, recall@10 {recall:.3f}"
    say(f"  search     {search}")
    left_out = found["left_out"]
    assert isinstance(left_out, list)
    if left_out:
        reasons = Counter(str(row["reason"]).rpartition(": ")[2] for row in left_out)
        say(f"  left out   {len(left_out)} by the last build: {'; '.join(f'{n} × {why}' for why, n in reasons.most_common(5))}")
    return 0
