"""The routes for programs, below `/v1`: ours, and those of OpenAI's API."""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel
from starlette.responses import JSONResponse, Response, StreamingResponse

from emo_lightning.core.images import media_type
from emo_lightning.serve.answers import embedded, explained, usage
from emo_lightning.serve.bodies import read_files, read_json, read_query
from emo_lightning.serve.chat import Completion
from emo_lightning.serve.covering import CoverRequest, covered
from emo_lightning.serve.failures import ApiError
from emo_lightning.serve.neighbours import PathRequest, SearchRequest, between, nearest, thumbnail
from emo_lightning.serve.service import Service
from emo_lightning.serve.shapes import ChatRequest, EmbeddingsRequest, ExplainOptions, ExplainRequest, default_names
from emo_lightning.serve.streaming import stream

api_router = APIRouter(prefix="/v1")

REQUEST_BODIES: tuple[type[BaseModel], ...] = (
    ExplainRequest,
    EmbeddingsRequest,
    ChatRequest,
    CoverRequest,
    SearchRequest,
    PathRequest,
)
"""What is sent in JSON, for the description of the API."""


async def _service(request: Request) -> Service:
    return cast(Service, request.app.state.service)


ServiceDependency = Annotated[Service, Depends(_service)]


def body(model: type[BaseModel], *files: str) -> dict[str, object]:
    """What a route reads, for the description of the API.

    Args:
        model: of its JSON.
        files: media types of pictures that it takes as they are.
    """
    content: dict[str, object] = {"application/json": {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}}
    for kind in files:
        schema: dict[str, object] = {"type": "string", "format": "binary"}
        if kind == "multipart/form-data":
            schema = {"type": "object", "properties": {"image": schema}}
        content[kind] = {"schema": schema}
    return {"requestBody": {"required": True, "content": content}}


@api_router.post("/explain", openapi_extra=body(ExplainRequest, "image/*", "multipart/form-data"))
async def explain(request: Request, service: ServiceDependency) -> Response:
    """What the model sees, says and feels in pictures.

    Triplet, boxes, masks where there are, the emotion in its words (`said`) and as the probe reads it off the embedding (`probe`, with its
    conformal set), intensity, the sentence in pieces that are linked to the boxes, and the embedding (`des`), all of one reading of each
    picture. Pictures are JSON, the bytes of one, or a form's files named `image`; options of the latter stand behind `?`.
    """
    files = await read_files(request, service.limits.images)
    options: ExplainOptions
    if files is None:
        asked = await read_json(request, service, ExplainRequest)
        pictures = await service.pictures.aside(asked.given)
        options, names = asked, asked.names(len(pictures))
    else:
        options, pictures, names = read_query(request, ExplainOptions), files, default_names(len(files))
    service.check_model(options.model)
    found = await service.look(request, pictures, names, service.limit(options.max_new_tokens))
    data = [explained(one, embedding=options.embedding) for one in found]
    counted = usage([one.tokens for one in found])
    return JSONResponse({"object": "list", "model": service.about.id, "data": data, "usage": counted})


@api_router.post("/embeddings", openapi_extra=body(EmbeddingsRequest))
async def embeddings(request: Request, service: ServiceDependency) -> Response:
    """Embeddings of pictures, in the shape of OpenAI's API: `client.embeddings.create(model=…, input="data:image/jpeg;base64,…")`."""
    asked = await read_json(request, service, EmbeddingsRequest)
    service.check_model(asked.model)
    if asked.dimensions not in (None, service.about.des_dim):
        msg = f"dimensions: found {asked.dimensions}; this model's embeddings have {service.about.des_dim} numbers"
        raise ApiError(400, msg, "invalid_value", "dimensions")
    found = await service.look(request, await service.pictures.aside(asked.given))
    data = [embedded(number, one, asked.encoding_format) for number, one in enumerate(found)]
    counted = usage([one.tokens for one in found], completion=False)
    return JSONResponse({"object": "list", "model": service.about.id, "data": data, "usage": counted})


@api_router.post("/chat/completions", openapi_extra=body(ChatRequest))
async def chat(request: Request, service: ServiceDependency) -> Response:
    """What the model says of the picture of a message, in the shape of OpenAI's API; `stream` sends it while it is written.

    The model was trained to answer questions of its own, and asks those: texts beside the picture change nothing. The answer's `explanation`
    is that of `/v1/explain`; with `embedding` the embedding is in it.
    """
    asked = await read_json(request, service, ChatRequest)
    service.check_model(asked.model)
    picture = await service.pictures.aside(asked.given)
    completion, limit = Completion(asked, service.about.id), service.limit(asked.limit)
    if asked.stream:
        events = await stream(completion, lambda on_partial: service.look(request, [picture], None, limit, on_partial))
        return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
    (found,) = await service.look(request, [picture], None, limit)
    return JSONResponse(completion.whole(found))


@api_router.get("/models")
async def models(service: ServiceDependency) -> Response:
    """The one model, in the shape of OpenAI's API."""
    return JSONResponse({"object": "list", "data": [_model(service)]})


@api_router.get("/models/{name:path}")
async def model(name: str, service: ServiceDependency) -> Response:
    """The model of that name."""
    service.check_model(name)
    return JSONResponse(_model(service))


@api_router.post("/faithfulness", openapi_extra=body(CoverRequest))
async def faithfulness(request: Request, service: ServiceDependency) -> Response:
    """What becomes of the emotion when a region of a picture is covered, beside boxes of its size at random places; in points."""
    asked = await read_json(request, service, CoverRequest)
    service.check_model(asked.model)
    return JSONResponse(await covered(request, service, asked))


@api_router.post("/search", openapi_extra=body(SearchRequest))
async def search(request: Request, service: ServiceDependency) -> Response:
    """The nearest images of the index (`--index`), with what is known of them."""
    return JSONResponse(await nearest(request, service, await read_json(request, service, SearchRequest)))


@api_router.post("/path", openapi_extra=body(PathRequest))
async def path(request: Request, service: ServiceDependency) -> Response:
    """Images of the index along the way from one image to another."""
    return JSONResponse(await between(request, service, await read_json(request, service, PathRequest)))


@api_router.get("/thumbnail")
async def small(id: str, service: ServiceDependency) -> Response:
    """The small picture of an image of the index."""
    found = await thumbnail(service, id)
    return Response(found, media_type=media_type(found))


def _model(service: Service) -> dict[str, object]:
    about = service.about
    return {"id": about.id, "object": "model", "created": about.created, "owned_by": "emo-lightning"}
