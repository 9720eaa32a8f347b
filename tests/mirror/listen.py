"""Listeners of the mirror: plain or TLS, one for everything or a second one for tokens."""

from __future__ import annotations

import asyncio
import asyncio.sslproto
import socket
import ssl
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette

from tests.mirror.documents import Archive
from tests.mirror.server import BASE, Mirror, ServerSettings
from tests.mirror.wire import WireProtocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """How the listeners speak TLS. The RNDS asks for a certificate on the host of its tokens only: a listener has one rule for all."""

    certificate: Path
    key: Path
    client_ca: Path | None = None
    """Authorities of client certificates, which are then required: by the listener of tokens if there is one, else by the only one."""
    auth_port: int | None = None
    """A second listener that gives tokens and nothing else; 0 = any free port."""
    auth_port_file: Path | None = None

    def options(self, *, ask_certificate: bool) -> dict[str, Any]:
        """Arguments of `uvicorn.Config`."""
        options: dict[str, Any] = {"ssl_certfile": self.certificate, "ssl_keyfile": self.key, "loop": "asyncio"}
        if ask_certificate and self.client_ca is not None:
            options |= {"ssl_ca_certs": str(self.client_ca), "ssl_cert_reqs": ssl.CERT_REQUIRED}
        return options


def serve(
    archive: Archive,
    settings: ServerSettings,
    *,
    host: str,
    port: int,
    port_file: Path | None,
    announce: Callable[[str], None],
    tls: Tls | None = None,
) -> None:
    """Run until interrupted. The port is bound before `port_file` is written and the address announced."""
    if tls is not None:
        _send_alerts()
    if tls is not None and tls.auth_port is not None:
        with _listen(host, tls.auth_port) as listener:
            bound = listener.getsockname()[1]
            settings = replace(settings, token_url=f"https://{host}:{bound}/api/token")
            _write_port(tls.auth_port_file, bound)
            _serve(
                archive,
                settings,
                host=host,
                port=port,
                port_file=port_file,
                announce=announce,
                tls=tls,
                tokens=listener,
            )
    else:
        _serve(archive, settings, host=host, port=port, port_file=port_file, announce=announce, tls=tls, tokens=None)


def _listen(host: str, port: int) -> socket.socket:
    """A listener whose connections send what is written at once.

    asyncio sets TCP_NODELAY only where the socket names its protocol, which `create_server` does not: without it the last packet
    of each answer waits 40 ms for an acknowledgement.
    """
    plain = socket.create_server((host, port), reuse_port=False)
    return socket.socket(plain.family, plain.type, socket.IPPROTO_TCP, fileno=plain.detach())


def _serve(
    archive: Archive,
    settings: ServerSettings,
    *,
    host: str,
    port: int,
    port_file: Path | None,
    announce: Callable[[str], None],
    tls: Tls | None,
    tokens: socket.socket | None,
) -> None:
    with ExitStack() as stack:
        listeners = [stack.enter_context(_listen(host, port))]
        bound = listeners[0].getsockname()[1]
        if "export" in settings.ways:
            listeners.append(stack.enter_context(_listen(host, 0)))
            settings = replace(settings, files_port=listeners[1].getsockname()[1])
        mirror = Mirror(archive, settings)
        options = tls.options(ask_certificate=tokens is None) if tls is not None else {}
        server = uvicorn.Server(_config(mirror.app(), options))
        _write_port(port_file, bound)
        scheme = "https" if tls is not None else "http"
        announce(f"event=mirror.ready url={scheme}://{host}:{bound}{BASE} auth={settings.gate.mode}")
        if tls is None or tokens is None:
            server.run(sockets=listeners)
            return
        others = uvicorn.Server(_config(mirror.token_app(), tls.options(ask_certificate=True)))

        async def both() -> None:
            await asyncio.gather(server.serve(sockets=listeners), others.serve(sockets=[tokens]))

        asyncio.run(both())


def _send_alerts() -> None:
    """Make asyncio tell a client why its handshake failed, as other servers do: it forgets to send the alert.

    https://github.com/python/cpython/issues/98078; goes with the first Python that has the change.
    """
    protocol: Any = asyncio.sslproto.SSLProtocol
    fail = protocol._fatal_error

    def tell_and_fail(self: Any, *arguments: Any) -> None:
        if self._transport is not None:
            self._process_outgoing()
        fail(self, *arguments)

    protocol._fatal_error = tell_and_fail


def _config(app: Starlette, options: dict[str, Any]) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=WireProtocol,
        log_level="warning",
        access_log=False,
        date_header=False,
        timeout_graceful_shutdown=3,
        **options,
    )


def _write_port(path: Path | None, port: int) -> None:
    if path is not None:
        unfinished = path.with_name(f"{path.name}.unfinished")
        unfinished.write_text(f"{port}\n", encoding="ascii")
        unfinished.replace(path)
