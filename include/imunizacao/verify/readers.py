"""Where the bucket is read from: a web address, or a folder with a copy. GETs only, never a list."""

from __future__ import annotations

import http.client
import ssl
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import quote, urlsplit

from imunizacao.errors import StorageUnavailable

BLOCK: Final = 1 << 18
_TRIES: Final = 5
_LONGEST_WAIT: Final = 30.0
_PASSING: Final = {429, 500, 502, 503, 504}
"""Answers that may be other ones a moment later."""


class Missing(Exception):
    """The object is not there, or may not be read."""

    def __init__(self, key: str, why: str) -> None:
        super().__init__(f"{key}: {why}")
        self.key, self.why = key, why


class TooLarge(Exception):
    """An object that should be small is not."""


class Reader(Protocol):
    """Read access to one bucket; safe to share between threads."""

    address: str
    """For the report; without secrets."""
    moves: bool
    """Whether the bucket may be published to meanwhile; a folder is as it is."""

    def stream(self, key: str) -> Iterator[bytes]:
        """Blocks of an object. `Missing` when there is none, `StorageUnavailable` when nobody can tell."""

    def close(self) -> None:
        """Let connections go."""


def read_small(reader: Reader, key: str, *, most: int) -> bytes:
    """An object of at most `most` bytes; a larger one is `TooLarge`, without being read to its end."""
    body = bytearray()
    blocks = reader.stream(key)
    for block in blocks:
        body += block
        if len(body) > most:
            raise TooLarge(key)
    return bytes(body)


class FolderReader:
    """A copy of the bucket in a folder."""

    moves = False

    def __init__(self, folder: Path) -> None:
        self.address, self._folder = f"file://{folder}", folder

    def stream(self, key: str) -> Iterator[bytes]:
        """Blocks of a file."""
        try:
            with (self._folder / key).open("rb") as file:
                while block := file.read(BLOCK):
                    yield block
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise Missing(key, "there is no such file") from None
        except OSError as error:
            raise StorageUnavailable(
                f"Cannot read {self._folder / key}: {error.strerror}. Make it readable, then verify again. See docs/runbook/verify-findings.md."
            ) from error

    def close(self) -> None:
        """Nothing is held."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Base:
    secure: bool
    host: str
    port: int | None
    path: str
    query: str


class HttpReader:
    """A bucket, or a copy of it, behind http or https. Connections are kept for the next object until `close`.

    What fails for a moment is asked for again, and a body that was cut off goes on where it ended. Redirects are not followed:
    the address that is really meant should be given. Proxies come from the usual environment (`https_proxy`, `no_proxy`).
    """

    moves = True

    def __init__(
        self,
        address: str,
        *,
        sign: Callable[[str, str], Mapping[str, str]] | None = None,
        shown: str = "",
        timeout: float = 60.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        parts = urlsplit(address)
        self._base = _Base(
            secure=parts.scheme == "https",
            host=parts.hostname or "",
            port=parts.port,
            path=parts.path.rstrip("/"),
            query=parts.query,
        )
        self.address = shown or f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{self._base.path}"
        self._sign, self._timeout, self._sleep = sign, timeout, sleep
        self._proxy = _proxy(self._base)
        self._idle: list[http.client.HTTPConnection] = []
        self._lock = threading.Lock()

    def stream(self, key: str) -> Iterator[bytes]:
        """Blocks of an object, across connections that break."""
        done, etag = 0, ""
        for attempt in range(_TRIES):
            connection = self._connection()
            whole = False
            try:
                answer = self._ask(connection, key, start=done, etag=etag)
                etag = etag or answer.headers.get("ETag", "")
                skip = 0 if answer.status == 206 else done
                for block in self._body(answer):
                    fresh, skip = block[skip:], max(0, skip - len(block))
                    if fresh:
                        done += len(fresh)
                        yield fresh
                whole = True
                return
            except Missing:
                whole = True
                raise
            except (_Broken, OSError, http.client.HTTPException) as error:
                why = str(error) or type(error).__name__
                if attempt + 1 == _TRIES:
                    raise StorageUnavailable(
                        f"{self.address} did not give {key} in {_TRIES} tries: {why}. Check address and network, then verify again. See docs/runbook/verify-findings.md."
                    ) from error
                wait = error.wait if isinstance(error, _Broken) else 0.5 * 2**attempt
                self._sleep(min(wait, _LONGEST_WAIT))
            finally:
                self._give_back(connection, usable=whole)

    def _ask(
        self, connection: http.client.HTTPConnection, key: str, *, start: int, etag: str
    ) -> http.client.HTTPResponse:
        base = self._base
        path = f"{base.path}/{quote(key, safe='/-_.~')}"
        headers = (
            dict(self._sign(base.host if base.port is None else f"{base.host}:{base.port}", path)) if self._sign else {}
        )
        if start:
            headers["Range"] = f"bytes={start}-"
            if etag:
                headers["If-Match"] = etag
        target = path + (f"?{base.query}" if base.query else "")
        if self._proxy and not base.secure:
            target = f"http://{base.host}:{base.port or 80}{target}"
        connection.request("GET", target, headers=headers)
        answer = connection.getresponse()
        if answer.status in {200, 206}:
            return answer
        answer.read()
        if answer.status in {401, 403, 404, 410}:
            raise Missing(key, f"the server answers HTTP {answer.status}")
        if answer.status == 412:
            raise _Broken("the object was replaced while it was read")
        if answer.status in _PASSING:
            raise _Broken(f"HTTP {answer.status}", wait=_seconds(answer.headers.get("Retry-After", "")))
        moved = f" and points to {answer.headers['Location']}" if answer.headers.get("Location") else ""
        raise StorageUnavailable(
            f"{self.address} answers HTTP {answer.status} for {key}{moved}. Give the address of the bucket itself, then verify again. See docs/runbook/verify-findings.md."
        )

    def _body(self, answer: http.client.HTTPResponse) -> Iterator[bytes]:
        announced = answer.length
        seen = 0
        while block := answer.read(BLOCK):
            seen += len(block)
            yield block
        if announced is not None and seen != announced:
            raise _Broken(f"the body ended after {seen} of {announced} bytes")

    def _connection(self) -> http.client.HTTPConnection:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        base = self._base
        host, port = self._proxy or (base.host, base.port)
        if not base.secure:
            return http.client.HTTPConnection(host, port, timeout=self._timeout)
        made = http.client.HTTPSConnection(host, port, timeout=self._timeout, context=ssl.create_default_context())
        if self._proxy:
            made.set_tunnel(base.host, base.port or 443)
        return made

    def _give_back(self, connection: http.client.HTTPConnection, *, usable: bool) -> None:
        if not usable:
            connection.close()
            return
        with self._lock:
            self._idle.append(connection)

    def close(self) -> None:
        """Close all connections that are not in use."""
        with self._lock:
            while self._idle:
                self._idle.pop().close()


class _Broken(Exception):
    """Try again."""

    def __init__(self, why: str, *, wait: float = 0.5) -> None:
        super().__init__(why)
        self.wait = wait


def _seconds(retry_after: str) -> float:
    return float(retry_after) if retry_after.isdigit() else 1.0


def _proxy(base: _Base) -> tuple[str, int | None] | None:
    scheme = "https" if base.secure else "http"
    address = urllib.request.getproxies().get(scheme, "")
    if not address or urllib.request.proxy_bypass(base.host):
        return None
    parts = urlsplit(address if "//" in address else f"//{address}")
    return (parts.hostname, parts.port) if parts.hostname else None
