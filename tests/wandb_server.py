"""A stand-in for W&B's server: the part of its protocol by which a run is begun, logged and ended, over real HTTP.

It keeps what it is sent: of each run the settings that it was begun with, the lines of its history, its summary and its exit code.
"""

from __future__ import annotations

import base64
import gzip
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_PROJECT = {"id": "p", "name": "p", "entity": {"id": "e", "name": "us"}}


@dataclass
class KeptRun:
    """What the server was told of one run."""

    begun: list[dict[str, Any]] = field(default_factory=list)
    """Variables of each `upsertBucket`."""
    history: dict[int, dict[str, Any]] = field(default_factory=dict)
    """Line number -> row."""
    summary: dict[str, Any] = field(default_factory=dict)
    """The last one sent."""
    exit_codes: list[int] = field(default_factory=list)
    """One each time that the run ended."""

    @property
    def config(self) -> dict[str, Any]:
        """Of the run, as it was last sent."""
        sent = [json.loads(one["config"]) for one in self.begun if one.get("config")]
        return {key: value["value"] for one in sent for key, value in one.items() if "value" in value}

    def last(self, name: str) -> Any:  # noqa: ANN401  # as JSON holds it
        """The last value of one setting of the run (`groupName`, `jobType`, `tags`, ...)."""
        return [one[name] for one in self.begun if one.get(name) is not None][-1]


class WandbServer(ThreadingHTTPServer):
    """Runs by id."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.runs: dict[str, KeptRun] = {}
        self.deleted: set[str] = set()
        """Ids of runs that somebody has deleted."""

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that has gone is no error."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: WandbServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        self._answer({})

    def do_PUT(self) -> None:
        self._body()
        self._answer({})

    def do_POST(self) -> None:
        body = self._body()
        if self.path.endswith("/graphql"):
            sent = json.loads(body)
            self._answer(self._graphql(sent["query"], sent.get("variables") or {}))
        elif self.path.endswith("/file_stream"):
            self._stream(self.path.split("/")[-2], json.loads(body))
            self._answer({"exitcode": None, "limits": {}})
        else:
            self._answer({})

    def _body(self) -> bytes:
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(data) if self.headers.get("Content-Encoding") == "gzip" else data

    def _answer(self, value: object) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _graphql(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        if "upsertBucket" in query:
            name = variables["name"]
            if name in self.server.deleted:
                said = f"run us/p/{name} was previously created and deleted; try a new run name"
                return {"errors": [{"message": said, "path": ["upsertBucket"]}], "data": {"upsertBucket": None}}
            new = name not in self.server.runs
            self.server.runs.setdefault(name, KeptRun()).begun.append(variables)
            bucket = {
                "id": base64.b64encode(name.encode()).decode(),
                "name": name,
                "displayName": variables.get("displayName") or name,
                "config": "{}",
                "project": {**_PROJECT, "name": variables.get("project") or "p"},
            }
            return {"data": {"upsertBucket": {"bucket": bucket, "inserted": new}}}
        if "RunResumeStatus" in query:
            return {"data": {"model": {**_PROJECT, "bucket": self._resumed(variables["name"])}}}
        if "createRunFiles" in query:
            files = [{"name": one, "uploadUrl": f"{self.server.url}/upload"} for one in variables["files"]]
            return {"data": {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}}
        viewer = {"id": "v", "entity": "us", "username": "us", "flags": "{}", "teams": {"edges": []}}
        return {"data": {"viewer": viewer, "serverInfo": {"cliVersionInfo": {"max_cli_version": "99.0.0"}, "features": []}}}

    def _resumed(self, name: str) -> dict[str, Any] | None:
        run = self.server.runs.get(name)
        if run is None or not run.begun or name in self.server.deleted:
            return None
        return {
            "name": name,
            "historyLineCount": len(run.history),
            "eventsLineCount": 0,
            "logLineCount": 0,
            "historyTail": json.dumps([json.dumps(run.history[max(run.history)])] if run.history else []),
            "eventsTail": "[]",
            "summaryMetrics": json.dumps(run.summary),
            "config": json.dumps({key: {"value": value} for key, value in run.config.items()}),
            "tags": run.begun[-1].get("tags") or [],
            # By this the client sees that the run has begun, and is not only foreseen by a sweep.
            "wandbConfig": json.dumps({"t": 1}),
        }

    def _stream(self, name: str, sent: dict[str, Any]) -> None:
        run = self.server.runs.setdefault(name, KeptRun())
        for file, part in (sent.get("files") or {}).items():
            if file == "wandb-history.jsonl":
                run.history |= {part["offset"] + n: json.loads(line) for n, line in enumerate(part["content"])}
            elif file == "wandb-summary.json":
                run.summary |= json.loads(part["content"][-1])
        if sent.get("complete"):
            run.exit_codes.append(sent["exitcode"])


@contextmanager
def wandb_server() -> Iterator[WandbServer]:
    """One that answers, in threads of this process."""
    server = WandbServer()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
