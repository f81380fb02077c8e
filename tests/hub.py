"""A real HTTP server that speaks what huggingface_hub asks of the hub, and fails as it is told to."""

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REFUSALS = {  # code → status, the hub's own header
    "gated": (403, "GatedRepo"),
    "repository": (404, "RepoNotFound"),
    "revision": (404, "RevisionNotFound"),
    "entry": (404, "EntryNotFound"),
}


class Hub:
    """Repositories "datasets/owner/name" or "models/owner/name" with one commit each.

    `faults` are taken one per answer to a file: a status, after how many bytes the connection is cut ("cut"), or how
    many come behind the file ("more"). `listing` is the answer about any repository, `extra` are more headers;
    `whole` answers with whole files whatever part is asked for.
    `stated` replaces digests that are stated of files kept in LFS, which are all but those in `plain`.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.faults: list[int | tuple[str, int]] = []
        self.stated: dict[str, str] = {}
        self.plain: set[str] = set()
        self.blobs: dict[str, str] = {}
        self.listing: bytes | None = None
        self.extra: dict[str, str] = {}
        self.gated = False
        self.whole = False
        self.requests: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.bytes_served = 0
        self.url = ""

    def info(self, repository: str) -> dict:
        files = self.repositories[repository]
        siblings = []
        for name, content in files.items():
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
            sibling = {"rfilename": name, "size": len(content), "blobId": self.blobs.get(name, blob)}
            if name not in self.plain:
                digest = self.stated.get(name, hashlib.sha256(content).hexdigest())
                sibling["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 134}
            siblings.append(sibling)
        return {"id": repository.split("/", 1)[1], "sha": COMMIT, "siblings": siblings}


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):
            super().handle()

    def refuse(self, reason: str) -> None:
        status, code = REFUSALS[reason]
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def answer(self, status: int, content: bytes, **headers: str) -> None:
        self.send_response(status)
        stated = {"Content-Length": str(len(content)), "X-Repo-Commit": COMMIT, **headers, **self.hub.extra}
        for name, value in stated.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)
        self.hub.bytes_served += len(content)

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        if not path.startswith(("api/models/", "api/datasets/")) and "/resolve/" not in path:
            self.refuse("entry")  # what the client asks about itself
            return
        self.hub.requests.append(path)
        self.hub.headers.append(dict(self.headers))
        if path.startswith("api/"):
            kind, owner, name, what, revision = path.split("/")[1:6]
            repository = f"{kind}/{owner}/{name}"
            if self.hub.listing is not None:
                self.answer(200, self.hub.listing)
            elif repository not in self.hub.repositories:
                self.refuse("repository")
            elif what == "commits":
                commit = {"id": COMMIT, "title": "", "message": "", "date": "2025-01-01T00:00:00.000Z", "authors": []}
                self.answer(200, json.dumps([commit]).encode())
            elif revision not in (COMMIT, "main"):
                self.refuse("revision")
            else:
                self.answer(200, json.dumps(self.hub.info(repository)).encode())
            return
        path = path if path.startswith("datasets/") else f"models/{path}"
        repository, file = path.split("/resolve/")[0], path.split(f"/resolve/{COMMIT}/")[1]
        if self.hub.gated:
            self.refuse("gated")
        elif file not in self.hub.repositories[repository]:
            self.refuse("entry")
        else:
            self.serve(self.hub.repositories[repository][file])

    def serve(self, content: bytes) -> None:
        """A file, from where it is asked for, with the next fault."""
        fault = self.hub.faults.pop(0) if self.hub.faults else None
        if isinstance(fault, int):
            self.answer(fault, b"")
            return
        first, _, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        start, stop = int(first), int(last or len(content) - 1) + 1
        rest = content[start:stop]
        if fault is not None and fault[0] == "more":
            self.send_response(200)
            self.send_header("Connection", "close")
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # who was told more than he asked for hangs up
                for part in (rest, *[bytes(1_000_000)] * (fault[1] // 1_000_000)):
                    self.wfile.write(part)
                    self.hub.bytes_served += len(part)
            self.close_connection = True
            return
        if fault is not None:
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(rest)))
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.end_headers()
            self.wfile.write(rest[: fault[1]])
            self.hub.bytes_served += fault[1]
            self.close_connection = True
            return
        part = "Range" in self.headers and not self.hub.whole
        headers = {"Content_Range": f"bytes {start}-{stop - 1}/{len(content)}"} if part else {}
        self.answer(206 if part else 200, rest if part else content, **headers)


@contextlib.contextmanager
def running() -> Iterator[Hub]:
    """A hub that listens on a port of this machine."""
    hub = Hub()
    handler = type("HubHandler", (Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
