"""What the annotators are asked. Text alone: the image travels beside it, and nothing else of an item does."""

from __future__ import annotations

from data_prep.annotate.prompts import ANNOTATION_PROMPT, EMOTION_PROMPT, REVISION_PROMPT
from data_prep.annotate.replies import EmotionVote, FullAnnotation
from data_prep.config import AnnotatorConfig


def first_prompt(annotator: AnnotatorConfig) -> tuple[str, type[EmotionVote]]:
    """Prompt and reply schema of the first round."""
    match annotator.role:
        case "full":
            return ANNOTATION_PROMPT, FullAnnotation
        case "emotion":
            return EMOTION_PROMPT, EmotionVote
        case _:
            msg = f"unknown role {annotator.role!r}; allowed: full, emotion"
            raise ValueError(msg)


def revision_prompt(own: FullAnnotation, flagged: tuple[str, ...], instructions: str, revision: int) -> str:
    """Prompt of a later round: the annotator's own annotation and the critic's instructions.

    The number of the revision is part of it: a second look that changed nothing must be a new question, not a cached answer.
    """
    fields = ", ".join(flagged)
    request = REVISION_PROMPT.format(
        annotation=own.model_dump_json(), fields=fields, instructions=instructions or "none given", revision=revision
    )
    return f"{ANNOTATION_PROMPT}\n\n{request}"


def asked_again(annotators: list[AnnotatorConfig], preferred: str, flagged: tuple[str, ...]) -> list[AnnotatorConfig]:
    """Who can mend the flagged fields: every full annotator for emotion and intensity (pooled), else the preferred one."""
    pooled = {"emotion", "intensity"} & set(flagged)
    return [a for a in annotators if a.role == "full" and (pooled or a.name == preferred)]
