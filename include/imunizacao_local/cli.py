"""`python -m imunizacao_local up|down|status|reset|env`: the product on this machine, by one command."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Final

from imunizacao_local.airflow_api import yesterday
from imunizacao_local.airflow_server import USER as AIRFLOW_USER
from imunizacao_local.console import Console
from imunizacao_local.day import publish_day
from imunizacao_local.errors import LocalError
from imunizacao_local.files import exclusive
from imunizacao_local.publication import PublicBucket, PublishedDay
from imunizacao_local.seaweed import PUBLIC_BUCKET
from imunizacao_local.stack import LOCK, MARK, Stack, load_mirror, load_ports, save_mirror, save_ports

ROOT: Final = Path(__file__).resolve().parents[2]
_WAIT_MINUTES: Final = 45
_INTERRUPTED: Final = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code (0 done, 1 not done, 2 wrong usage, 130 interrupted)."""
    options = _parser().parse_args(arguments)
    console = Console()
    try:
        return int(_COMMANDS[options.command](options, console))
    except LocalError as error:
        print(f"\nError: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. What was started keeps running; `make down` stops it.", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader went away (`up | head`): the interpreter would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _up(options: argparse.Namespace, console: Console) -> int:
    began = time.monotonic()
    day = options.day or yesterday()
    if day > yesterday():
        raise LocalError(
            f"Day {day} is not over yet in São Paulo; the last one that is over is {yesterday()}",
            next_step="choose an earlier --day",
        )
    stack = _stack(options)
    with exclusive(stack.state_dir / LOCK, what="Starting or stopping the servers"):
        started = stack.start(console, with_airflow=not options.no_airflow)
        save_ports(stack.state_dir, stack.ports)
        save_mirror(stack.state_dir, stack.mirror.settings)
    if options.no_airflow:
        return 0
    airflow, bucket = stack.airflow(), stack.public_bucket()
    if options.no_run:
        console.line(f"Airflow: {airflow.base_url}  login {AIRFLOW_USER}  password {airflow.password}")
        return 0
    published = publish_day(
        console=console, airflow=airflow, bucket=bucket, day=day, wait_seconds=options.wait_minutes * 60
    )
    if not started and not published:
        console.line("Everything was running: nothing was changed.")
    _show(console, stack, bucket, day)
    console.line(f"Done in {time.monotonic() - began:.0f} s.")
    return 0


def _down(options: argparse.Namespace, console: Console) -> int:
    stack = _existing_stack(options)
    with exclusive(stack.state_dir / LOCK, what="Starting or stopping the servers"):
        if not stack.stop(console):
            console.line("Nothing was running.")
    return 0


def _status(options: argparse.Namespace, console: Console) -> int:
    """Print one row per server; exit code 0 only when all are healthy."""
    stack = _existing_stack(options)
    airflow = stack.airflow()
    pids: dict[str, int | None] = {
        "PostgreSQL": stack.postgres.pid(),
        "Object store": info.pid if (info := stack.seaweed.find()) else None,
        "Mirror": info.pid if (info := stack.mirror.find()) else None,
    }
    addresses = stack.addresses()
    rows = []
    healthy = True
    for name, service in stack.services().items():
        state = "healthy" if service.is_healthy() else "unhealthy" if service.is_running() else "stopped"
        healthy = healthy and state == "healthy"
        pid = pids.get(name)
        rows.append((name, state, str(pid or "-"), addresses[name], str(service.log)))
    for name, info in airflow.components().items():
        state = "running" if info is not None else "stopped"
        rows.append((f"  {name}", state, str(info.pid if info else "-"), "", str(airflow.component_log(name))))
    _table(console, ("SERVER", "STATE", "PID", "ADDRESS", "LOG"), rows)
    return 0 if healthy else 1


def _reset(options: argparse.Namespace, console: Console) -> int:
    stack = _existing_stack(options)
    if not options.yes:
        raise LocalError(
            f"This stops the servers and deletes {stack.state_dir} with every published day and all secrets",
            next_step="run the command again with --yes",
        )
    with exclusive(stack.state_dir / LOCK, what="Starting or stopping the servers"):
        stack.remove(console)
    return 0


def _env(options: argparse.Namespace, console: Console) -> int:
    """Print the settings as shell exports, for `eval "$(python -m imunizacao_local env)"`. They hold secrets."""
    stack = _existing_stack(options)
    for name, value in sorted(stack.environment().items()):
        console.line(f"export {name}={shlex.quote(value)}")
    return 0


_COMMANDS: Final = {"up": _up, "down": _down, "status": _status, "reset": _reset, "env": _env}


def _stack(options: argparse.Namespace) -> Stack:
    state_dir: Path = options.state.resolve()
    given = {name: getattr(options, f"port_{name}", None) for name in ("airflow", "postgres", "s3", "mirror")}
    return Stack(
        root=ROOT,
        state_dir=state_dir,
        ports=load_ports(state_dir, given, os.environ),
        mirror=load_mirror(
            state_dir,
            docs_per_day=getattr(options, "docs_per_day", None),
            auth=getattr(options, "mirror_auth", None),
        ),
        dags_folder=_folder("LOCAL_DAGS_FOLDER"),
        plugins_folder=_folder("LOCAL_PLUGINS_FOLDER"),
    )


def _existing_stack(options: argparse.Namespace) -> Stack:
    if not (options.state / MARK).is_file():
        raise LocalError(
            f"Nothing was ever started with the state folder {options.state.resolve()}",
            next_step="run `make up`, or name the folder with --state DIR",
        )
    return _stack(options)


def _folder(variable: str) -> Path | None:
    text = os.environ.get(variable)
    if not text:
        return None
    folder = Path(text)
    if not folder.is_dir():
        raise LocalError(f"{variable} {text!r} is not a folder", next_step="create it or unset the variable")
    return folder


def _show(console: Console, stack: Stack, bucket: PublicBucket, day: date) -> None:
    """Say what is public now and where to look."""
    found = bucket.read_day(day)
    if found is None:
        raise LocalError(
            f"The run was successful but the public bucket has no head for day {day}",
            next_step="look at the log of the task `publish` in Airflow",
        )
    airflow = stack.airflow()
    for line in (
        "",
        *_describe(found, bucket),
        f"Airflow   {airflow.base_url}   login {AIRFLOW_USER}   password {airflow.password}",
        f"Bucket    {stack.seaweed.endpoint}/{PUBLIC_BUCKET}   read-only keys: {stack.state_dir / 'seaweed' / 's3.json'}",
        f"FHIR      {stack.mirror.base_url}",
        'Shell     eval "$(make -s env)" sets what `python -m imunizacao` and `airflow` need',
        "Stop      make down",
    ):
        console.line(line)


def _describe(found: PublishedDay, bucket: PublicBucket) -> list[str]:
    lines = [
        f"Day {found.day}: {found.state}, revision {found.revision}, {found.published_at}",
        f"  {found.doses} doses published, {found.quarantined} in quarantine,"
        f" {found.ufs} UFs and {found.municipalities} municipalities with doses",
        f"Head      {found.head_key}",
    ]
    if found.manifest_key is not None:
        lines += [
            f"Manifest  {found.manifest_key}",
            "  open it for 12 hours with:",
            f"  curl -s '{bucket.link(found.manifest_key)}'",
        ]
    if found.sample is not None:
        lines.append(f"Sample    {found.sample.key} ({found.sample.rows} rows)")
        lines += [f"  {_cut(row)}" for row in (found.sample.header, *found.sample.first_rows)]
    lines.append("")
    return lines


def _cut(row: Sequence[str], width: int = 110) -> str:
    text = ";".join(row)
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _table(console: Console, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    for row in (header, *rows):
        console.line("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m imunizacao_local",
        description="Run PostgreSQL, an S3 server, the mirror simulator and Airflow on this machine, on loopback.",
        epilog="Ports can also be set by LOCAL_PORT_AIRFLOW, LOCAL_PORT_POSTGRES, LOCAL_PORT_S3 and LOCAL_PORT_MIRROR.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--state",
        type=Path,
        default=Path(os.environ.get("LOCAL_STATE") or ROOT / ".local"),
        metavar="DIR",
        help="folder of all data, logs and secrets (default: .local of the project, or LOCAL_STATE)",
    )
    up = commands.add_parser("up", parents=[common], help="start everything and publish a day")
    up.add_argument("--day", type=_day, metavar="YYYY-MM-DD", help="reference day (default: yesterday in São Paulo)")
    up.add_argument("--docs-per-day", type=int, metavar="N", help="documents per day of the simulator (default 20000)")
    up.add_argument(
        "--mirror-auth", choices=("none", "rnds"), help="how the simulator wants to be asked (default none)"
    )
    up.add_argument("--no-run", action="store_true", help="only start the servers")
    up.add_argument("--no-airflow", action="store_true", help="only start PostgreSQL, the S3 server and the mirror")
    up.add_argument("--wait-minutes", type=float, default=_WAIT_MINUTES, metavar="N", help="how long to follow the run")
    for name, what in (
        ("airflow", "Airflow (default 8080)"),
        ("postgres", "PostgreSQL (default 55432)"),
        ("s3", "S3 and the four after it, each also plus 10000 (default 8333)"),
        ("mirror", "the mirror simulator (default 8090)"),
    ):
        up.add_argument(f"--port-{name}", type=int, metavar="PORT", help=f"port of {what}")
    commands.add_parser("down", parents=[common], help="stop everything; data stays")
    commands.add_parser("status", parents=[common], help="show what runs")
    reset = commands.add_parser("reset", parents=[common], help="stop everything and delete all data and secrets")
    reset.add_argument("--yes", action="store_true", help="really delete")
    commands.add_parser("env", parents=[common], help="print settings as shell exports (they hold secrets)")
    return parser


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a day such as 2026-03-14") from error
