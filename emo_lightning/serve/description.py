"""The description of the API: OpenAPI for programs, and a page for people that loads nothing from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, NamedTuple, cast

from fastapi.openapi.utils import get_openapi
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from pydantic.json_schema import models_json_schema

from emo_lightning.serve.api import REQUEST_BODIES

if TYPE_CHECKING:
    from fastapi import FastAPI

_REF = "#/components/schemas/{model}"
Schema = Mapping[str, object]


class Key(NamedTuple):
    """A key of a request."""

    name: str
    kind: str
    default: str
    about: str


class Route(NamedTuple):
    """What may be asked."""

    method: str
    path: str
    about: list[str]
    """Paragraphs."""
    rows: list[Key]


def openapi_schema(app: FastAPI) -> dict[str, object]:
    """OpenAPI 3.1 of the routes below `/v1`."""
    found = get_openapi(title=app.title, version=_version(), routes=app.routes, description="What `emo serve` answers.")
    _, schemas = models_json_schema([(model, "validation") for model in REQUEST_BODIES], ref_template=_REF)
    known = found.setdefault("components", {}).setdefault("schemas", {})
    # FastAPI's own error, which is answered by ours.
    for name in ("HTTPValidationError", "ValidationError"):
        known.pop(name, None)
    known |= schemas["$defs"]
    for route in found["paths"].values():
        for one in route.values():
            one["responses"].pop("422", None)
    found["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    found["security"] = [{"token": []}]
    return found


def description_page(described: Mapping[str, object]) -> str:
    """The same as HTML.

    Args:
        described: of `openapi_schema`.
    """
    environment = Environment(
        loader=PackageLoader(__name__.rpartition(".")[0], "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["prose"] = _prose
    return environment.get_template("docs.html.j2").render(version=_version(), routes=list(_routes(described)))


def _prose(text: str) -> Markup:
    """A text whose `names` are set as code."""
    parts = text.split("`")
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if n % 2 else Markup.escape(part) for n, part in enumerate(parts)
    )


def _routes(described: Mapping[str, object]) -> Iterator[Route]:
    paths = cast("Mapping[str, Mapping[str, Mapping[str, object]]]", described["paths"])
    schemas = cast("Mapping[str, Mapping[str, Schema]]", described["components"])["schemas"]
    for path, methods in paths.items():
        for method, route in methods.items():
            content = cast(
                "Mapping[str, Mapping[str, Mapping[str, str]]]", cast(Schema, route.get("requestBody", {})).get("content", {})
            )
            about = [" ".join(part.split()) for part in str(route.get("description", "")).split("\n\n") if part.strip()]
            name = content["application/json"]["schema"]["$ref"].rpartition("/")[2] if content else None
            yield Route(method.upper(), path, about, list(_keys(schemas[name])) if name else [])


def _keys(schema: Schema) -> Iterator[Key]:
    required = cast("list[str]", schema.get("required", []))
    for name, one in cast("Mapping[str, Schema]", schema["properties"]).items():
        default = "required" if name in required else "" if one.get("default") is None else json.dumps(one["default"])
        yield Key(name, _kind(one), default, " ".join(str(one.get("description", "")).split()))


def _kind(schema: Schema) -> str:
    """What a value may be, in a word or two."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "const" in schema:
        return str(schema["const"])
    if "enum" in schema:
        return " | ".join(map(str, cast("list[object]", schema["enum"])))
    if "anyOf" in schema:
        kinds = [_kind(one) for one in cast("list[Schema]", schema["anyOf"])]
        return " | ".join(kind for kind in dict.fromkeys(kinds) if kind != "null") or "null"
    if schema.get("type") == "array":
        return f"list of {_kind(cast(Schema, schema.get('items', {})))}"
    return str(schema.get("type", "anything"))


def _version() -> str:
    try:
        return version("emo-lightning")
    except PackageNotFoundError:
        return "unknown"
