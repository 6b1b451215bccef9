"""What a pass has been told of the parameters that its models take: learnt from the first answer that declines one, not for each image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from data_prep.provider.base import Provider, Question
from data_prep.provider.config import EndpointConfig
from data_prep.provider.transport import HttpAnswer


@dataclass
class TakenParameters:
    """By address and model, since annotator and critic may be the same.

    A question keeps the cache key of the parameters that were configured: what was paid for is found under them.
    """

    _names: dict[tuple[str, str], dict[str, str | None]] = field(default_factory=dict)
    """The name that a declined parameter is sent under; None: it is left out."""

    def fit(self, endpoint: EndpointConfig, parameters: Mapping[str, object]) -> dict[str, object]:
        """Parameters as this model takes them, in the order of the configuration."""
        names = self._names.get((endpoint.base_url, endpoint.model), {})
        fitted: dict[str, object] = {}
        for key, value in parameters.items():
            name = names.get(key, key)
            if name is not None and (name == key or name not in parameters):
                fitted[name] = value
        return fitted

    def learn(
        self, endpoint: EndpointConfig, provider: Provider, answer: HttpAnswer, question: Question
    ) -> tuple[str, bool] | None:
        """Take note of an answer that declines a parameter.

        Args:
            endpoint: that gave it.
            provider: reads it.
            answer: of a status other than 200.
            question: that was sent.

        Returns:
            What is done from now on, for the report, and whether that is news. None where the answer declines none, or nothing else
            can be tried: the question cannot be asked.
        """
        found = provider.without(answer.status, answer.body, question.parameters)
        if found is None:
            return None
        declined, name = found
        names = self._names.setdefault((endpoint.base_url, endpoint.model), {})
        news = declined not in names
        if news and name in names:
            # It takes neither of the two names.
            return None
        names.setdefault(declined, name)
        how = f"sent as {name}" if name else "left out"
        return f"{endpoint.model} declines {declined}, which is {how}", news
