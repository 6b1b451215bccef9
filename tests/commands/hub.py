"""A stand-in for the Hugging Face hub on loopback: enough of its HTTP API to commit a folder and to download it again."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

COMMIT = "c" * 40


@dataclass
class Hub:
    """What it was sent."""

    url: str
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """Repository (of data: `datasets/OWNER/NAME`) -> path -> bytes of its one branch."""
    blobs: dict[str, bytes] = field(default_factory=dict)
    """sha256 -> bytes, of large files."""
    private: dict[str, bool] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    ranges: list[tuple[int, int]] = field(default_factory=list)
    """Of files, as they were asked for."""
    refuse: bool = False
    """Whether the token may not write."""


def serve() -> tuple[Hub, ThreadingHTTPServer]:
    """Start it; the caller shuts it down."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    hub = Hub(f"http://127.0.0.1:{server.server_port}")
    server.hub = hub  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return hub, server


@contextmanager
def hub_served(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[Hub]:
    """It is what this process takes for the hub.

    Args:
        monkeypatch: of the test.
        folder: for what is downloaded.
    """
    from huggingface_hub import constants

    found, server = serve()
    # Read from the environment once, when the library is imported.
    monkeypatch.setattr(constants, "ENDPOINT", found.url)
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", found.url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", found.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setenv("HF_TOKEN", "hf_made_up")
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> Hub:
        return self.server.hub  # type: ignore[attr-defined]

    def log_message(self, *_: object) -> None: ...

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer(self, body: bytes, status: int = 200, **headers: str) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or "")
        if wanted and status == 200:
            self.hub.ranges.append((int(wanted[1]), int(wanted[2]) + 1))
            body, status = body[int(wanted[1]) : int(wanted[2]) + 1], 206
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers, "Content-Length": str(len(body))}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, value: object, status: int = 200) -> None:
        self._answer(json.dumps(value).encode(), status)

    def do_POST(self) -> None:
        path, body = unquote(urlsplit(self.path).path), self._body()
        self.hub.requests.append(f"POST {path}")
        if self.hub.refuse:
            self._json({"error": "You don't have the rights to create a model under this namespace"}, 403)
        elif path == "/api/repos/create":
            said = json.loads(body)
            repo = f"{said['organization']}/{said['name']}"
            self.hub.files.setdefault(repo, {})
            self.hub.private[repo] = said.get("visibility") == "private"
            self._json({"url": f"{self.hub.url}/{repo}", "id": repo, "name": repo})
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif path.endswith("/preupload/main"):
            files = json.loads(body)["files"]
            modes = [{"path": f["path"], "uploadMode": _mode(f["path"]), "shouldIgnore": False} for f in files]
            self._json({"files": modes})
        elif path.endswith("/info/lfs/objects/batch"):
            objects = [
                {"oid": o["oid"], "size": o["size"], "actions": {"upload": {"href": f"{self.hub.url}/blobs/{o['oid']}"}}}
                for o in json.loads(body)["objects"]
            ]
            self._json({"transfer": "basic", "objects": objects})
        elif path.endswith("/commit/main"):
            repo = path.removeprefix("/api/").removeprefix("models/").removesuffix("/commit/main")
            for line in body.splitlines():
                self._take(repo, json.loads(line))
            self._json({"success": True, "commitOid": COMMIT, "commitUrl": f"{self.hub.url}/{repo}/commit/{COMMIT}"})
        elif "/paths-info/" in path:
            # What older clients ask before they list a folder.
            repo = path.removeprefix("/api/").removeprefix("models/").partition("/paths-info/")[0]
            if repo in self.hub.files:
                files, asked = self.hub.files[repo], parse_qs(body.decode()).get("paths", [])
                self._json([_entry(name, files[name]) for name in asked if name in files])
            else:
                self._answer(b"{}", 404, X_Error_Code="RepoNotFound")
        else:
            self._json({"error": path}, 404)

    def _take(self, repo: str, said: dict) -> None:
        value = said["value"]
        if said["key"] == "file":
            self.hub.files[repo][value["path"]] = base64.b64decode(value["content"])
        elif said["key"] == "lfsFile":
            self.hub.files[repo][value["path"]] = self.hub.blobs[value["oid"]]
        elif said["key"] == "deletedFile":
            del self.hub.files[repo][value["path"]]

    def do_PUT(self) -> None:
        oid, body = self.path.rsplit("/", 1)[1], self._body()
        assert hashlib.sha256(body).hexdigest() == oid
        self.hub.blobs[oid] = body
        self._json({})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        self.hub.requests.append(f"GET {path}")
        for repo, files in self.hub.files.items():
            api = f"api/{repo}" if repo.startswith("datasets/") else f"api/models/{repo}"
            if path in (f"{api}/revision/main", api):
                names = [{"rfilename": name} for name in files]
                self._json({"id": repo, "sha": COMMIT, "siblings": names, "tags": [], "private": False})
                return
            if path.startswith(f"{api}/tree/"):
                folder = path.removeprefix(f"{api}/tree/").partition("/")[2]
                listed = [_entry(name, files[name]) for name in files if not folder or name.startswith(f"{folder}/")]
                if folder and not listed:
                    self._answer(b"{}", 404, X_Error_Code="EntryNotFound")
                else:
                    self._json(listed)
                return
            name = path.removeprefix(f"{repo}/resolve/").partition("/")[2]
            if path.startswith(f"{repo}/resolve/") and name in files:
                etag = f'"{hashlib.sha256(files[name]).hexdigest()}"'
                self._answer(files[name], ETag=etag, X_Repo_Commit=COMMIT, Content_Type="application/octet-stream")
                return
        self._answer(b"{}", 404 if path else 200, X_Error_Code="EntryNotFound" if "/resolve/" in f"/{path}" else "RepoNotFound")


def _mode(path: str) -> str:
    return "lfs" if path.endswith(".safetensors") else "regular"


def _entry(name: str, data: bytes) -> dict:
    return {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
