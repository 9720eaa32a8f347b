"""Answers that break the rules of HTTP, written to the socket itself: no server library sends them."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any, Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tests.mirror.faults.base import JSON, Wire

_EXTENSION: Final = "mirror.wire"
_STEP_SECONDS: Final = 0.05


class WireProtocol(HttpToolsProtocol):
    """HTTP/1.1 as usual, with the connection itself within reach of a handler."""

    def on_message_begin(self) -> None:
        """Start a request."""
        super().on_message_begin()
        self.scope["extensions"] = {_EXTENSION: {"transport": self.transport}}


class WireResponse(Response):
    """Head and body as told, then the end that was told. The connection is of no use afterwards."""

    def __init__(self, wire: Wire, *, headers: dict[str, str]) -> None:
        super().__init__(wire.body, media_type=JSON, headers=headers)
        self._wire = wire

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Write it and wait until the connection has gone."""
        transport: asyncio.Transport = scope["extensions"][_EXTENSION]["transport"]
        scope["mirror.answered"] = (200, len(self._wire.body))
        transport.write(self._head() + self._wire.body)
        ending = self._wire.ending
        if ending == "reset":
            await asyncio.sleep(_STEP_SECONDS)
            _reset(transport)
        elif ending == "close":
            transport.close()
        while not transport.is_closing():
            if ending == "drip":
                transport.write(b" ")
            await asyncio.sleep(_STEP_SECONDS)
        while (await receive())["type"] != "http.disconnect":
            pass

    def _head(self) -> bytes:
        lines = [b"HTTP/1.1 200 OK"]
        lines += [name + b": " + value for name, value in self.raw_headers if name != b"content-length"]
        return b"\r\n".join([*lines, b"content-length: %d" % self._wire.declared, b"\r\n"])


def _reset(transport: asyncio.Transport) -> None:
    """End a connection with RST, as a firewall or a dying process does."""
    found: Any = transport.get_extra_info("socket")
    found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
