"""Command line of the simulator."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from tests.mirror import cnes
from tests.mirror.auth import CLIENT_AUTHS, MODES, TOKEN_METHODS, Gate, read_public_keys
from tests.mirror.calendar import parse_ms
from tests.mirror.content import Country, Shares
from tests.mirror.documents import Archive, Settings
from tests.mirror.landing import write_landing
from tests.mirror.listen import Tls, serve
from tests.mirror.render import DOCUMENT_BASE
from tests.mirror.scenarios import SCENARIOS, describe
from tests.mirror.server import WAYS, ServerSettings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code: 0, or 2 for arguments that cannot be used."""
    options = _parser().parse_args(arguments)
    commands = {"cnes": _cnes, "generate": _generate, "mix": _mix, "serve": _serve}
    try:
        return commands[options.command](options)
    except (ValueError, OSError) as error:
        print(f"mirror: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.mirror", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    make = commands.add_parser("cnes", help="write the demonstration snapshot of the CNES")
    make.add_argument("--out", type=Path, default=cnes.SNAPSHOT)

    generate = commands.add_parser("generate", help="write landing parts of one day, without HTTP")
    generate.add_argument("--day", type=date.fromisoformat, required=True)
    generate.add_argument("--docs", type=int, required=True)
    generate.add_argument("--out", type=Path, required=True)
    generate.add_argument("--part", type=int, default=50_000, help="documents per part")
    generate.add_argument("--procs", type=int, default=1)
    _add_archive(generate)

    mix = commands.add_parser("mix", help="print the faults of mix:<number>")
    mix.add_argument("number", type=int)

    server = commands.add_parser("serve", help="run the mirror")
    server.add_argument("--host", default="127.0.0.1")
    server.add_argument("--port", type=int, default=0, help="0 = any free port")
    server.add_argument("--port-file", type=Path, help="write the bound port here once it is open")
    server.add_argument("--docs-per-day", type=int, default=20_000)
    server.add_argument("--auth", choices=MODES, default="none")
    server.add_argument("--login", default=os.environ.get("MIRROR_LOGIN", ""))
    server.add_argument("--password", default=os.environ.get("MIRROR_PASSWORD", ""), help="better: MIRROR_PASSWORD")
    server.add_argument("--token-seconds", type=int, default=1800)
    _add_identity(server)
    server.add_argument("--bookmark-seconds", type=int, default=3600, help="0 = cursors do not expire")
    server.add_argument("--ways", default="documents", help=f"what to serve, with commas between: {', '.join(WAYS)}")
    server.add_argument("--now", help="a clock that stands still, like 2026-03-15T02:10:00Z")
    server.add_argument(
        "--scenario", action="append", default=[], metavar="NAME[:ARG]", help=f"repeatable: {', '.join(SCENARIOS)}"
    )
    _add_archive(server)
    return parser


def _add_identity(server: argparse.ArgumentParser) -> None:
    server.add_argument("--token-uses", type=int, default=0, help="requests after which a token is revoked, 0 = never")
    server.add_argument("--token-method", choices=TOKEN_METHODS, default="any", help="of the RNDS's token")
    server.add_argument("--client-id", default="", help="oauth2, smart")
    server.add_argument(
        "--client-secret", default=os.environ.get("MIRROR_CLIENT_SECRET", ""), help="better: MIRROR_CLIENT_SECRET"
    )
    server.add_argument(
        "--client-auth", choices=CLIENT_AUTHS, default="basic", help="where oauth2 expects id and secret"
    )
    server.add_argument("--client-keys", type=Path, help="smart: public keys of the client, a JWKS or one PEM")
    server.add_argument("--tls-cert", type=Path, help="speak TLS with this certificate (PEM)")
    server.add_argument("--tls-key", type=Path)
    server.add_argument("--tls-client-ca", type=Path, help="require client certificates of these authorities (PEM)")
    server.add_argument(
        "--auth-port", type=int, help="give tokens on this port alone, which alone requires the certificate; 0 = any"
    )
    server.add_argument("--auth-port-file", type=Path)


def _add_archive(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--patient-share", type=float, default=Shares().patient, help="documents with a Patient entry")
    parser.add_argument("--organization-share", type=float, default=Shares().organization)
    parser.add_argument("--document-base", default=DOCUMENT_BASE, help="base of the addresses inside documents")
    parser.add_argument("--cnes", type=Path, help="CNES snapshot (default: the project's)")


def _settings(options: argparse.Namespace, docs: int) -> Settings:
    if docs < 1:
        raise ValueError("a day needs at least one document (use the scenario empty:<day> for none)")
    shares = Shares(patient=options.patient_share, organization=options.organization_share)
    return Settings(seed=options.seed, docs_per_day=docs, shares=shares, base=options.document_base.rstrip("/"))


def _cnes(options: argparse.Namespace) -> int:
    data = cnes.build_snapshot()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_bytes(data)
    print(f"event=mirror.cnes_written path={options.out} bytes={len(data)}")
    return 0


def _mix(options: argparse.Namespace) -> int:
    print("\n".join(describe(options.number)))
    return 0


def _generate(options: argparse.Namespace) -> int:
    started = time.perf_counter()
    parts = write_landing(
        settings=_settings(options, options.docs),
        day=options.day,
        folder=options.out,
        per_part=options.part,
        processes=options.procs,
        snapshot=options.cnes,
    )
    seconds = time.perf_counter() - started
    documents = sum(part.documents for part in parts)
    print(
        f"event=mirror.generated day={options.day} documents={documents} parts={len(parts)} "
        f"bytes_plain={sum(part.bytes_plain for part in parts)} "
        f"bytes_written={sum(part.bytes_written for part in parts)} "
        f"seconds={seconds:.1f} documents_per_second={documents / seconds:.0f}"
    )
    return 0


def _tls(options: argparse.Namespace) -> Tls | None:
    if not (options.tls_cert and options.tls_key):
        if any((options.tls_cert, options.tls_key, options.tls_client_ca, options.auth_port is not None)):
            raise ValueError("TLS needs both --tls-cert and --tls-key")
        return None
    return Tls(
        certificate=options.tls_cert,
        key=options.tls_key,
        client_ca=options.tls_client_ca,
        auth_port=options.auth_port,
        auth_port_file=options.auth_port_file,
    )


def _serve(options: argparse.Namespace) -> int:
    archive = Archive(Country.read(options.cnes), _settings(options, options.docs_per_day))
    gate = Gate(
        mode=options.auth,
        login=options.login,
        password=options.password,
        token_seconds=options.token_seconds,
        token_uses=options.token_uses,
        token_method=options.token_method,
        client_id=options.client_id,
        client_secret=options.client_secret,
        client_auth=options.client_auth,
        public_keys=read_public_keys(options.client_keys) if options.client_keys else {},
    )
    settings = ServerSettings(
        gate=gate,
        scenarios=tuple(options.scenario),
        now=parse_ms(options.now) if options.now else None,
        bookmark_seconds=options.bookmark_seconds,
        ways=tuple(options.ways.split(",")),
    )
    try:
        serve(
            archive,
            settings,
            host=options.host,
            port=options.port,
            port_file=options.port_file,
            announce=lambda line: print(line, flush=True),
            tls=_tls(options),
        )
    except KeyboardInterrupt:
        return 0
    return 0
