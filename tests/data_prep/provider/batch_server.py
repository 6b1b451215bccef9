"""A Batch API on loopback that misbehaves as a test says."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.data_prep.serving import Handler, good, listening, send

Answered = tuple[int, dict | bytes]
"""Status and body."""


@dataclass
class BatchServer:
    """What happens at the server; a test sets the hooks before a pass.

    The first batch is answered as `change` says, every later one as a good server does.
    """

    change: Callable[[dict, int], Answered | None] = lambda shown, look: None
    """Given a batch as it is shown, completed, and how often it has been looked at; changes it, or answers something else."""
    rows: Callable[[list[dict]], list[dict]] = lambda rows: rows
    """Changes the rows of the file of replies."""
    failed: Callable[[list[dict]], list[dict]] = lambda rows: []
    """The rows of the error file."""
    file: Callable[[str, int], Answered | None] = lambda file_id, look: None
    """As `change`, for the content of a file."""
    upload: Callable[[dict], Answered | None] = lambda shown: None
    create: Callable[[dict], Answered | None] = lambda shown: None
    broken: int = 0
    """Downloads of files that break off in their middle, and come whole afterwards."""
    coding: str = "identity"
    """Content-Encoding that is said of files."""
    keys: dict[str, str] = field(default_factory=dict)
    """By batch: the key of the only account that knows it."""
    made_by: list[str] = field(default_factory=list)
    """Key that made each batch."""
    asked: list[list[str]] = field(default_factory=list)
    """Keys of the requests of each batch."""
    looks: dict[str, int] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    batches: dict[str, dict] = field(default_factory=dict)

    def look(self, what: str) -> int:
        self.looks[what] = self.looks.get(what, 0) + 1
        return self.looks[what]

    def post(self, path: str, data: bytes, key: str) -> Answered:
        if path.endswith("/files"):
            start = data.index(b'{"custom_id"')
            name = f"file-{len(self.files)}"
            self.files[name] = data[start : data.index(b"\r\n--", start)]
            shown = {"id": name, "object": "file", "created_at": 1}
            return self.upload(shown) or (200, shown)
        if path.endswith("/cancel"):
            return 409, {"error": {"message": "has ended already"}}
        body = json.loads(data)
        name = f"batch_{len(self.batches)}"
        lines = [json.loads(line) for line in self.files[body["input_file_id"]].splitlines()]
        self.made_by.append(key)
        self.asked.append([line["custom_id"] for line in lines])
        self.batches[name] = {"id": name, "metadata": body["metadata"], "created_at": 2, "lines": lines}
        shown = self._shown(name) | {"status": "validating"}
        return self.create(shown) or (200, shown)

    def get(self, path: str, key: str) -> Answered:
        *_, kind, name = path.removesuffix("/content").split("/")
        if path.endswith("/content"):
            if (other := self.file(name, self.look(name))) is not None:
                return other
            return (200, self.files[name]) if name in self.files else (404, {"error": {"message": f"no file {name}"}})
        if kind == "batches" and name in self.batches:
            if self.keys.get(name, key) != key:
                return 404, {"error": {"message": f"no batch {name}"}}
            shown, first = self._shown(name), name == "batch_0"
            other = self.change(shown, self.look(name)) if first else None
            return other or (200, shown)
        if name == "batches":
            return 200, {"object": "list", "has_more": False, "data": [self._shown(name) for name in self.batches]}
        return 200, {"id": name, "object": "file", "created_at": 1}

    def _shown(self, name: str) -> dict:
        batch = self.batches[name]
        rows = [
            {"custom_id": line["custom_id"], "error": None, "response": {"status_code": 200, "body": good(line["body"])}}
            for line in batch["lines"]
        ]
        failed = []
        if name == "batch_0":
            rows, failed = self.rows(rows), self.failed(rows)
        for kind, found in (("out", rows), ("err", failed)):
            self.files[f"{kind}-{name}"] = b"\n".join(json.dumps(row).encode() for row in found)
        return {
            **{key: value for key, value in batch.items() if key != "lines"},
            "status": "completed",
            "output_file_id": f"out-{name}" if rows else None,
            "error_file_id": f"err-{name}" if failed else None,
            "request_counts": {"total": len(batch["lines"]), "completed": len(rows), "failed": len(failed)},
        }


@contextmanager
def batch_server(server: BatchServer) -> Iterator[str]:
    """Serve; yields the base URL."""

    class Serving(Handler):
        def do_POST(self) -> None:  # noqa: N802  # the name that the server calls
            data = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path.endswith("/chat/completions"):
                send(self, 200, good(json.loads(data)))
            else:
                self._answer(*server.post(self.path.partition("?")[0], data, self._key()))

        def do_GET(self) -> None:  # noqa: N802  # as above
            status, body = server.get(self.path.partition("?")[0], self._key())
            if self.path.endswith("/content") and server.broken and isinstance(body, bytes):
                server.broken -= 1
                self._break_off(body)
            else:
                self._answer(status, body)

        def _break_off(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True

        def _key(self) -> str:
            return self.headers.get("Authorization", "").removeprefix("Bearer ")

        def _answer(self, status: int, body: dict | bytes) -> None:
            kind = "text/html" if isinstance(body, bytes) and body.startswith(b"<") else "application/json"
            coding = {"Content_Encoding": server.coding} if self.path.endswith("/content") else {}
            send(self, status, body, Content_Type=kind, **coding)

    with listening(Serving) as url:
        yield url
