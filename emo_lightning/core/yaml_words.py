"""YAML in which `on`, `off`, `yes` and `no` are words, as in YAML 1.2, true and false alone are booleans, and a key stands once."""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

_TRUTHS = "tag:yaml.org,2002:bool"


class WordLoader(yaml.SafeLoader):
    """PyYAML's safe loader, which follows YAML 1.1, but for that: a setting may be `off`, and a label may be called `no`.

    It refuses a key that stands twice in one mapping, of which PyYAML keeps the last without a word.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """The mapping of a node; merge keys (`<<`), which may say what the mapping says itself, are resolved after the check.

        Raises:
            ConstructorError: a key stands twice; names the line.
        """
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} stands twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


WordLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _TRUTHS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
WordLoader.add_implicit_resolver(_TRUTHS, re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
