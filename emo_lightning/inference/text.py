"""An explanation as a block of text for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from textwrap import wrap

from emo_lightning.core.emotions import Emotion
from emo_lightning.inference.results import Explanation, Probed, Said

_BAR = 24
"""Characters of a bar that stands for 1."""
_INDENT = 12
"""Characters before a text."""
_LEAST = 20
"""Characters of one, in a terminal however narrow."""
_SHOWN = 3
"""Emotions with a bar; more where the conformal set has more."""


def as_text(explanation: Explanation, width: int | None = None) -> str:
    """What the model sees, says and reads off its embedding, in about ten lines.

    Args:
        explanation: of one image.
        width: characters of a line, at which what is longer goes on below itself; None leaves lines whole.
    """
    words = explanation.prediction
    size = f"  ({words.width} × {words.height})" if words.width and words.height else ""
    lines = [f"{explanation.id}{size}"]
    for name, text in _rows(explanation):
        first, *more = [text] if width is None else _broken(text, width - _INDENT) or [text]
        lines += [f"  {name:<9} {first}", *(" " * _INDENT + one for one in more)]
    return "\n".join(lines)


def _broken(text: str, width: int) -> list[str]:
    return wrap(text, max(width, _LEAST), break_long_words=False, break_on_hyphens=False)


def comparison(explanation: Explanation) -> str:
    """Whether words and probe agree, in one sentence."""
    said, probe = explanation.said, explanation.probe
    match explanation.agreement:
        case "agree":
            return "words and probe agree"
        case "differ":
            return f"words and probe differ: {said.category} said, {probe.emotion if probe else '?'} in the embedding"
        case "no emotion said":
            return "the words name none of the eight emotions"
        case "no probe":
            return "the model has no probe to compare the words with"


def kind(explanation: Explanation) -> str:
    """Whether the image is like what the model was trained on, in one line."""
    if explanation.unlike is None:
        return "not known whether it is like what this model was trained on"
    return explanation.unlike.sentence


def _rows(explanation: Explanation) -> Iterator[tuple[str, str]]:
    said, unlike = explanation.said, explanation.unlike is not None and explanation.unlike.is_unlike
    yield "kind", kind(explanation)
    yield "sees", said.description or "(no description)"
    yield "triplet", " – ".join(part or "?" for part in (said.background, said.attribute, said.subject))
    for region in said.regions:
        corners = ", ".join(f"{number:.0f}" for number in region.box)
        yield "points at", f"{region.phrase or 'something'} at ({corners})"
    yield "says", _said(said)
    if explanation.probe is not None:
        yield from _probed(explanation.probe, unlike)
    if explanation.point is not None:
        yield "affect", ", ".join(f"{name} {value:+.2f}" for name, value in explanation.point.as_json().items()) + " (-1 to 1)"
    yield "", comparison(explanation)


def _said(said: Said) -> str:
    confidence = "" if said.confidence is None else f", by its own account {said.confidence:.2f}"
    if said.intensity is None:
        return f"{said.emotion or '(no emotion)'}{confidence}; no intensity"
    level = f" ({said.level})" if said.level else " (off the scale)"
    return f"{said.emotion or '(no emotion)'}{confidence}; intensity {said.intensity:g} of 10{level}"


def _probed(probe: Probed, unlike: bool) -> Iterator[tuple[str, str]]:
    ranked = sorted(probe.distribution, key=lambda emotion: -probe.distribution[emotion])
    name = "probe" if probe.calibrated else "probe*"
    for emotion in ranked[: _SHOWN if unlike else max(_SHOWN, len(probe.conformal or ()))]:
        share = probe.distribution[emotion]
        yield name, f"{emotion:<12} {share:.2f} {'█' * round(_BAR * share)}".rstrip()
        name = ""
    if probe.conformal is not None and probe.coverage is not None:
        yield (
            "one of",
            "all eight  (no smaller set is sure of such a picture)" if unlike else _set(probe.conformal, probe.coverage),
        )
    if not probe.calibrated:
        yield "", "* not calibrated: an order, not frequencies"


def _set(members: Sequence[Emotion], coverage: float) -> str:
    return f"{', '.join(members)}  (such sets hold the true one in {100 * coverage:.0f} % of images)"
