"""A Batch API for the simulated annotators: /v1/files and /v1/batches, answers after a while, at the batch price."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

from data_prep.demo.simulation.config import SimulatedBatches

BatchAnswer = Callable[[bytes], tuple[int, Mapping[str, object]]]
"""Body of a chat request to (status, body of the answer); what it answers, it charges."""
_MOST = 50_000


@dataclass
class _Batch:
    id: str
    file: str
    created: float
    metadata: dict[str, str]
    status: str = "in_progress"
    output: str | None = None
    errors: str | None = None
    problem: dict[str, str] | None = None
    counts: dict[str, int] = field(default_factory=lambda: {"total": 0, "completed": 0, "failed": 0})

    def json(self) -> dict[str, object]:
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
            "input_file_id": self.file,
            "created_at": int(self.created),
            "status": self.status,
            "metadata": self.metadata,
            "output_file_id": self.output,
            "error_file_id": self.errors,
            "request_counts": self.counts,
            "errors": {"object": "list", "data": [self.problem]} if self.problem else None,
        }


class SimulatedBatchApi:
    """Files and batches of one server.

    Args:
        config: how long a batch takes and what goes wrong.
        answer: answers one request of a batch.
        chance: a number in [0, 1) that depends on the seed and the parts alone.
    """

    def __init__(self, config: SimulatedBatches, answer: BatchAnswer, chance: Callable[..., float]) -> None:
        self._config, self._answer, self._chance = config, answer, chance
        self._files: dict[str, bytes] = {}
        self._kept: dict[str, float] = {}
        self._batches: dict[str, _Batch] = {}
        self._failed_once: set[str] = set()
        self._asked = 0

    def route(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[str, Mapping[str, object] | bytes]:
        """Status line and answer of a request below /v1/files or /v1/batches."""
        self.advance()
        path, _, query = path.partition("?")
        match [method, *path.removeprefix("/v1/").split("/")]:
            case ["POST", "files"]:
                name = self._keep(_file_of(headers.get("content-type", ""), body))
                return "200 OK", self._file(name)
            case ["GET", "files", name] if name in self._files:
                return "200 OK", self._file(name)
            case ["GET", "files", name, "content"] if name in self._files:
                return "200 OK", self._files[name]
            case ["POST", "batches"]:
                return self._create(json.loads(body))
            case ["GET", "batches"]:
                return "200 OK", self._list(parse_qs(query))
            case ["GET", "batches", name] if name in self._batches:
                return "200 OK", self._batches[name].json()
            case ["POST", "batches", name, "cancel"] if name in self._batches:
                if self._batches[name].status == "in_progress":
                    self._process(self._batches[name], "cancelled", 0.5)
                return "200 OK", self._batches[name].json()
        return "404 Not Found", {"error": {"message": f"{method} {path}: no such file or batch", "type": "simulation"}}

    def _keep(self, content: bytes) -> str:
        name = f"file-{len(self._files):06d}"
        self._files[name], self._kept[name] = content, time.time()
        return name

    def _file(self, name: str) -> dict[str, object]:
        return {
            "id": name,
            "object": "file",
            "bytes": len(self._files[name]),
            "created_at": int(self._kept[name]),
            "filename": "f",
            "purpose": "batch",
            "status": "processed",
        }

    def _create(self, asked: dict[str, Any]) -> tuple[str, Mapping[str, object]]:
        file = asked["input_file_id"]
        if file not in self._files:
            return "400 Bad Request", {"error": {"message": f"no file {file}", "type": "simulation"}}
        self._asked += 1
        error = {"error": {"message": "simulated failure", "type": "simulation"}}
        fault = self._chance("create", str(self._asked)) / self._config.create_error if self._config.create_error else 1.0
        if fault < 2 / 3:
            return ("429 Too Many Requests" if fault < 1 / 3 else "503 Service Unavailable"), error
        batch = _Batch(f"batch_{len(self._batches):06d}", file, time.time(), asked.get("metadata") or {})
        lines = self._files[file].splitlines()
        batch.counts["total"] = len(lines)
        names = [json.loads(line)["custom_id"] for line in lines]
        if len(lines) > _MOST or len(set(names)) != len(names):
            batch.status, batch.problem = "failed", {"code": "invalid_file", "message": "too many or repeated requests"}
        self._batches[batch.id] = batch
        return ("503 Service Unavailable", error) if fault < 1 else ("200 OK", batch.json())

    def _list(self, query: dict[str, list[str]]) -> dict[str, object]:
        newest = [b.json() for b in reversed(self._batches.values())]
        after = query.get("after", [""])[0]
        start = next((i + 1 for i, b in enumerate(newest) if b["id"] == after), 0)
        page = newest[start : start + int(query.get("limit", ["20"])[0])]
        return {"object": "list", "data": page, "has_more": start + len(page) < len(newest)}

    def advance(self) -> None:
        """Answer the batches whose time has come, whether or not anyone asks for them."""
        for batch in self._batches.values():
            if batch.status == "in_progress" and time.time() >= batch.created + self._config.seconds:
                expired = self._chance("expire", batch.file) < self._config.expire
                self._process(batch, "expired" if expired else "completed", 0.5 if expired else 1.0)

    def _process(self, batch: _Batch, status: str, share: float) -> None:
        output: list[dict[str, object]] = []
        errors: list[dict[str, object]] = []
        lines = self._files[batch.file].splitlines()
        for number, line in enumerate(lines):
            asked = json.loads(line)
            row: dict[str, object] = {"id": f"{batch.id}-{number}", "custom_id": asked["custom_id"], "error": None}
            if number >= len(lines) * share:
                row |= {"response": None, "error": {"code": f"batch_{status}", "message": "not executed"}}
                errors.append(row)
                continue
            body = json.dumps(asked["body"]).encode()
            code = 500
            answer: Mapping[str, object] = {"error": {"message": "simulated failure", "type": "simulation"}}
            if not self._fails(body):
                code, answer = self._answer(body)
            row["response"] = {"status_code": code, "request_id": row["id"], "body": answer}
            (output if code == 200 else errors).append(row)
        batch.counts |= {"completed": len(output), "failed": len(errors)}
        batch.output, batch.errors = (self._keep(_lines(rows)) if rows else None for rows in (output, errors))
        batch.status = status

    def _fails(self, body: bytes) -> bool:
        name = hashlib.sha256(body).hexdigest()
        if name in self._failed_once or self._chance("batch", name) >= self._config.line_error:
            return False
        self._failed_once.add(name)
        return True


def _lines(rows: list[dict[str, object]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def _file_of(content_type: str, body: bytes) -> bytes:
    """The part named `file` of a multipart form."""
    boundary = b"--" + content_type.partition("boundary=")[2].strip('"').encode()
    start = body.index(b"\r\n\r\n", body.index(b'name="file"')) + 4
    return body[start : body.index(b"\r\n" + boundary, start)]
