"""The questions of the pass, in one place. A changed word changes the cache key: the affected calls are paid again.

What a model is told after a reply off the schema stands in `provider.reply_schema`, EmoViT's question in `config`.
"""

from __future__ import annotations

from emo_lightning.core.records import EMOTIONS

_LABELS = ", ".join(EMOTIONS)

ANNOTATION_PROMPT = f"""You annotate images for visual emotion analysis. Look at the image and answer in JSON.
- description: one or two sentences: what is seen, and how background, attribute and subject act together.
- background: the scene or setting, a short noun phrase.
- attribute: the expression, pose, weather, light or colour that carries the mood, one or two words.
- subject: the main subject, a short noun phrase in the singular without its attribute.
- emotion: what a typical viewer feels, one of: {_LABELS}.
- confidence: from 0 to 1, how clearly the image belongs to that emotion and to no other.
- intensity: a whole number from 1 to 10: 1–3 low, 4–7 medium, 8–10 high.
Judge the image alone; do not name the emotion in the description."""

EMOTION_PROMPT = f"""Which emotion does this image evoke in a typical viewer? Choose one of: {_LABELS}.
Answer in JSON with emotion and confidence (0 to 1)."""

REVISION_PROMPT = """An inspector has read your annotation of this image and asks for changes (request {revision}).
Your annotation: {annotation}
Fields to change: {fields}
Instructions: {instructions}
Look at the image again and answer with the whole annotation; keep what was not criticised."""

CRITIC_PROMPT = f"""You inspect the annotation of an image. Look at the image first, then reason step by step, and answer in JSON:
1. scene: what you see yourself, in one sentence.
2. description_check: does the description agree with the scene? Say what does not.
3. triplet_check: are background, attribute and subject in the image, and the ones that matter?
4. emotion_check: does the emotion follow from what is seen?
5. emotion: the emotion that you would give, one of: {_LABELS}.
6. intensity_level: the level that you would give: low, medium or high. Judge the level alone, never an exact number.
Then the verdicts description, triplet, emotion, intensity: "valid" or "revisable".
overall: "valid" if nothing is to change, "revisable" if the annotation can be mended, "discarded" if the image cannot be
annotated or nothing in the annotation fits. instructions: what to change and to what, empty if nothing.

Inspection {{inspection}} of this image{{note}}.
Annotation: {{annotation}}
Pooled votes on the emotion: {{votes}}"""

BOX_CRITIC_PROMPT = """You inspect a bounding box in an image. Look at the image first, then reason step by step, and answer in JSON:
1. seen: where the subject is in the image and how large.
2. box_check: what lies inside the box, and what of the subject lies outside it.
Then box_verdict: "valid" if the box encloses the subject and little else, "revisable" if it misses much of the subject, holds
something else, or is far too large.

Subject: {phrase}
Box, in shares of the image's width and height from its left and top edges: {box}"""
