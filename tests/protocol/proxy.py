"""A proxy in front of an S3 server that does what networks do: cuts, delays, loses answers, and says that it is busy.

It takes each request whole, passes it on with the headers as they were signed, and decides by a seeded die what becomes of it. Keys
that runs share (`head.json`, indexes, catalog) are hit more often than the many files of a content. A script makes it certain.
"""

from __future__ import annotations

import http.client
import random
import re
import socket
import socketserver
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

FAULTS: Final[dict[str, float]] = {
    "delay": 4,
    "500 before": 1,
    "503 before": 1,
    "409": 1,
    "cut upload": 1,
    "cut before": 1,
    "500 after": 2,
    "412 after": 2,
    "cut after": 3,
    "cut answer": 1,
}
"""Fault → weight. *before* and *after*: the server did not get the request, or has carried it out."""
_CONDITIONAL: Final = {"409", "412 after"}
"""Only conditional writes are answered so."""
_SHARED: Final = re.compile(r"/(head|index|catalog)\.json")
_CODES: Final = {
    403: "AccessDenied",
    507: "InsufficientStorage",
    409: "ConditionalRequestConflict",
    412: "PreconditionFailed",
    500: "InternalError",
    503: "SlowDown",
}
_HOP: Final = {"connection", "expect", "transfer-encoding", "keep-alive"}


@dataclass(slots=True)
class Weather:
    """How bad the network is; shared by all connections."""

    seed: int
    shared: float = 0.0
    """Share of requests about shared keys that something happens to."""
    files: float = 0.0
    """Share of the others."""
    script: list[tuple[str, str, str]] = field(default_factory=list)
    """What happens for certain: method, pattern of the path, fault; once each, but for those in `lasting`."""
    lasting: frozenset[str] = frozenset()
    seen: Counter[str] = field(default_factory=Counter)
    _dice: random.Random = field(init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        """Seed the die."""
        self._dice = random.Random(self.seed)

    def calm(self) -> None:
        """No more faults."""
        self.shared = self.files = 0.0
        self.script.clear()

    def choose(self, method: str, path: str, *, conditional: bool) -> tuple[str, float]:
        """What happens to a request (empty: nothing), and a number between 0 and 1 for how much."""
        with self._lock:
            for number, (said, where, fault) in enumerate(self.script):
                if said == method and re.search(where, path):
                    if fault not in self.lasting:
                        del self.script[number]
                    self.seen[fault] += 1
                    return fault, 0.5
            share = self.shared if _SHARED.search(path) else self.files
            if self._dice.random() >= share:
                return "", 0.0
            names = [name for name in FAULTS if conditional or name not in _CONDITIONAL]
            if method not in {"PUT", "POST"}:
                names.remove("cut upload")
            fault = self._dice.choices(names, [FAULTS[name] for name in names])[0]
            self.seen[fault] += 1
            return fault, self._dice.random()


class _Cut(Exception):
    """The connection ends here."""


class _Handler(socketserver.StreamRequestHandler):
    weather: Weather
    upstream: tuple[str, int]
    disable_nagle_algorithm = True

    def handle(self) -> None:
        """Serve requests on one connection until somebody closes it."""
        self._server: http.client.HTTPConnection | None = None
        try:
            while self._one():
                pass
        except (_Cut, OSError, http.client.HTTPException):
            pass
        finally:
            if self._server is not None:
                self._server.close()
            try:
                self.request.shutdown(socket.SHUT_RDWR)
            except OSError:
                return

    def _one(self) -> bool:
        line = self.rfile.readline()
        if not line:
            return False
        method, path, _ = line.decode("latin-1").split(" ", 2)
        headers: list[tuple[str, str]] = []
        while (raw := self.rfile.readline()) not in (b"\r\n", b""):
            name, _, value = raw.decode("latin-1").partition(":")
            headers.append((name, value.strip()))
        known = {name.lower(): value for name, value in headers}
        if known.get("expect", "").lower() == "100-continue":
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = self.rfile.read(int(known.get("content-length", "0")))
        conditional = method == "PUT" and ("if-match" in known or "if-none-match" in known)
        fault, much = self.weather.choose(method, path, conditional=conditional)
        if fault == "delay":
            time.sleep(much * 0.3)
        elif fault in {"500 before", "503 before", "409", "403", "507"}:
            self._say(int(fault[:3]), method)
            return True
        elif fault == "cut before":
            raise _Cut
        elif fault == "damage" and body:
            body = body[:-1] + bytes([body[-1] ^ 1])
        elif fault == "cut upload":
            self._send_half(method, path, headers, body, much)
            raise _Cut
        status, reason, answered, content = self._pass_on(method, path, headers, body)
        if fault == "cut after":
            raise _Cut
        if fault in {"500 after", "412 after"}:
            self._say(int(fault[:3]), method)
            return True
        head = f"HTTP/1.1 {status} {reason}\r\n" + "".join(f"{name}: {value}\r\n" for name, value in answered)
        answer = head.encode("latin-1") + b"\r\n" + content
        if fault == "cut answer":
            self.wfile.write(answer[: int(len(answer) * much)])
            raise _Cut
        self.wfile.write(answer)
        return True

    def _pass_on(
        self, method: str, path: str, headers: list[tuple[str, str]], body: bytes
    ) -> tuple[int, str, list[tuple[str, str]], bytes]:
        if self._server is None:
            self._server = http.client.HTTPConnection(*self.upstream, timeout=60)
        server = self._server
        server.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in headers:
            if name.lower() not in _HOP:
                server.putheader(name, value)
        server.endheaders(body or None)
        answer = server.getresponse()
        content = answer.read()
        kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in _HOP]
        if method != "HEAD":
            kept = [(name, value) for name, value in kept if name.lower() != "content-length"]
            kept.append(("Content-Length", str(len(content))))
        return answer.status, answer.reason, kept, content

    def _send_half(self, method: str, path: str, headers: list[tuple[str, str]], body: bytes, much: float) -> None:
        with socket.create_connection(self.upstream, timeout=60) as server:
            top = "".join(f"{name}: {value}\r\n" for name, value in headers if name.lower() != "expect")
            server.sendall(f"{method} {path} HTTP/1.1\r\n{top}\r\n".encode("latin-1") + body[: int(len(body) * much)])

    def _say(self, status: int, method: str) -> None:
        text = (
            f"<?xml version='1.0'?><Error><Code>{_CODES[status]}</Code></Error>".encode() if method != "HEAD" else b""
        )
        self.wfile.write(f"HTTP/1.1 {status} Fault\r\nContent-Length: {len(text)}\r\n\r\n".encode() + text)


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128


@contextmanager
def proxy(upstream: str, weather: Weather) -> Iterator[str]:
    """Run a proxy to `http://host:port` and give its own address."""
    host, port = upstream.removeprefix("http://").split(":")
    handler = type("Handler", (_Handler,), {"weather": weather, "upstream": (host, int(port))})
    with _Server(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
