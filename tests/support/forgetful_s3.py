"""An S3 server in memory that answers 200 where it should not: what the probe must find out, one kind at a time."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Final

KINDS: Final = ("all", "create", "match", "absent", "race", "checksum", "stale", "refuses")
"""What the server forgets: every condition; `If-None-Match`; `If-Match`; `If-Match` where there is nothing; that two requests may come
at once; the checksum; the last write of a key. `refuses`: it refuses every conditional write."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    kind: str
    objects: dict[str, list[bytes]]
    lock: Lock

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.kind == "race" and self.path.endswith("-race"):
            refused = self._refused(body)
            # Between looking and writing comes another request, sooner or later.
            self.objects.setdefault(self.path + " looked", []).append(b"")
            deadline = time.monotonic() + 5
            while len(self.objects[self.path + " looked"]) < 2 and time.monotonic() < deadline:
                time.sleep(0.005)
            self._write(body, refused)
            return
        with self.lock:
            self._write(body, self._refused(body))

    def _write(self, body: bytes, refused: int) -> None:
        if refused:
            self._answer(refused, b"<Error><Code>Refused</Code></Error>", b"")
            return
        self.objects.setdefault(self.path, []).append(body)
        self._answer(200, b"", body)

    def _refused(self, body: bytes) -> int:
        there = self.objects.get(self.path, [None])[-1]
        create, match = self.headers.get("If-None-Match"), self.headers.get("If-Match")
        said = self.headers.get("x-amz-checksum-sha256")
        if said and self.kind not in {"all", "checksum"} and said != _sha256(body):
            return 400
        if self.kind == "refuses" and (create or match):
            return 412
        if create and there is not None and self.kind not in {"all", "create"}:
            return 412
        if match and self.kind not in {"all", "match"}:
            if there is None:
                return 0 if self.kind == "absent" else 412
            return 0 if match == _etag(there) else 412
        return 0

    def do_GET(self) -> None:
        versions = self.objects.get(self.path)
        if not versions:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>", b"")
        else:
            body = versions[0 if self.kind == "stale" else -1]
            self._answer(200, body, body)

    do_HEAD = do_GET

    def do_DELETE(self) -> None:
        self.objects.pop(self.path, None)
        self._answer(204, b"", b"")

    def _answer(self, status: int, body: bytes, stored: bytes) -> None:
        self.send_response(status)
        self.send_header("ETag", _etag(stored))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


def _etag(body: bytes) -> str:
    return f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'


def _sha256(body: bytes) -> str:
    return base64.b64encode(hashlib.sha256(body).digest()).decode()


class _Server(ThreadingHTTPServer):
    daemon_threads = True


@contextmanager
def forgetful_s3(kind: str = "all") -> Iterator[str]:
    """Run the server and give its address."""
    handler = type("Handler", (_Handler,), {"objects": {}, "kind": kind, "lock": Lock()})
    server = _Server(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
