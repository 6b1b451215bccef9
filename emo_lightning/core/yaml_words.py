"""YAML in which `on`, `off`, `yes` and `no` are words, as in YAML 1.2, and true and false alone are booleans."""

from __future__ import annotations

import re

import yaml

_TRUTHS = "tag:yaml.org,2002:bool"


class WordLoader(yaml.SafeLoader):
    """PyYAML's safe loader, which follows YAML 1.1, but for that: a setting may be `off`, and a label may be called `no`."""


WordLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _TRUTHS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
WordLoader.add_implicit_resolver(_TRUTHS, re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
