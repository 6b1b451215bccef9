"""Where an answer names its emotion, in tokens: what soft labels, and the model's own distribution over the eight, stand on.

An emotion's word may be several tokens. The eight are told apart by the first of them, and its probability is taken for the word's:
given the first token of one of eight known words, the rest is certain for any model that answers in the form asked for.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from emo_lightning.core.emotions import POLARITIES
from emo_lightning.core.errors import InputError
from emo_lightning.core.records import EMOTIONS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class EmotionWordsError(InputError):
    """The tokenizer does not tell the eight words apart by one token."""


@dataclass(frozen=True)
class EmotionWords:
    """The eight words in the tokens of one backbone; or the two of polarity.

    Args:
        before: ids of the answer up to the first word's first token.
        first: eight different ids, order of `EMOTIONS`: the first token of each word; or two, order of `POLARITIES`.
    """

    before: tuple[int, ...]
    first: tuple[int, ...]

    @classmethod
    def of_answers(
        cls, tokenizer: PreTrainedTokenizerBase, answers: Sequence[str], words: Sequence[str] = EMOTIONS
    ) -> EmotionWords:
        """From answers that differ in nothing but the word, in the order of the words.

        Raises:
            EmotionWordsError: two words begin with the same token.
        """
        rows: list[list[int]] = tokenizer(list(answers), add_special_tokens=False)["input_ids"]
        shared = next((n for n, column in enumerate(zip(*rows, strict=False)) if len(set(column)) > 1), min(map(len, rows)))
        first = tuple(row[shared] if shared < len(row) else -1 for row in rows)
        if len(set(first)) < len(words):
            twins = [str(word) for word, token in zip(words, first, strict=True) if first.count(token) > 1]
            msg = (
                f"this tokenizer begins {', '.join(twins)} with the same token: soft labels and emotion scores need {len(words)} "
                "words that differ in their first token"
            )
            raise EmotionWordsError(msg)
        return cls(tuple(rows[0][:shared]), first)

    @classmethod
    def of_question(cls, tokenizer: PreTrainedTokenizerBase) -> EmotionWords:
        """For an answer whose first key is the emotion, as objective `emotion` asks for it."""
        return cls.of_answers(tokenizer, [json.dumps({"emotion": str(e), "intensity": 5}) for e in EMOTIONS])

    @classmethod
    def of_polarity(cls, tokenizer: PreTrainedTokenizerBase) -> EmotionWords:
        """For an answer whose only key is the polarity, as objective `polarity` asks for it."""
        return cls.of_answers(tokenizer, [json.dumps({"polarity": word}) for word in POLARITIES], POLARITIES)
