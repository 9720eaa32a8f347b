"""`python -m imunizacao verify`."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TextIO

from imunizacao.errors import PipelineError
from imunizacao.verify.access import open_reader
from imunizacao.verify.report import DayReport, render_text
from imunizacao.verify.walk import Selection, verify_bucket

_HELP = "check a published bucket from outside, by plain GETs"
_DESCRIPTION = """Check everything that a reader of the bucket may rely on: sizes, hashes, form and cells of the files, sums, accounts,
history, differences, signatures. It reads only, and shares no code with what publishes."""
_EPILOG = (
    "exit codes: 0 nothing found, 6 findings, 5 the bucket could not be read to the end, 2 wrong address, option or key"
)


def add_verify(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    verify = commands.add_parser("verify", help=_HELP, description=_DESCRIPTION, epilog=_EPILOG)
    _add_options(verify)
    verify.set_defaults(command=_verify)


def main(argv: Sequence[str], *, env: Mapping[str, str], out: TextIO, errors: TextIO) -> int:
    """The command by itself: it loads nothing of the pipeline, so it is small and runs with Python alone."""
    parser = argparse.ArgumentParser(prog="python -m imunizacao verify", description=_DESCRIPTION, epilog=_EPILOG)
    _add_options(parser)
    options = parser.parse_args(argv)
    try:
        return _verify(options, env, out, errors.isatty())
    except PipelineError as error:
        print(f"{type(error).__name__}: {error}", file=errors)
        return error.exit_code
    except KeyboardInterrupt:
        print("Interrupted. Nothing was changed.", file=errors)
        return 130


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "address",
        metavar="bucket-url",
        help="http(s)://host[:port]/bucket[/prefix], s3://bucket (endpoint and keys from IMUNIZACAO_S3_*), or file:///folder with a copy",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--day", default="", help="one reference day, YYYY-MM-DD")
    what.add_argument("--month", default="", help="one month, YYYY-MM")
    what.add_argument("--all", action="store_true", help="every month of the catalog (default)")
    parser.add_argument(
        "--uf",
        action="append",
        default=[],
        help="only the files of this UF (IBGE code, for example 53); may be repeated",
    )
    parser.add_argument(
        "--key",
        action="append",
        default=[],
        type=Path,
        metavar="FILE.pub",
        help="public key to believe instead of those in the bucket; may be repeated",
    )
    parser.add_argument("--require-signature", action="store_true", help="a day that is not signed is a finding")
    parser.add_argument(
        "--thorough",
        action="store_true",
        help="apply every difference to the revision before it; reads the files of all revisions, not of the present one alone",
    )
    parser.add_argument("--json", action="store_true", help="the report as JSON instead of a table")
    parser.add_argument("--jobs", type=int, default=4, help="files that are read at once (default 4)")


def _verify(options: argparse.Namespace, env: Mapping[str, str], out: TextIO, terminal: bool) -> int:
    selection = Selection(day=options.day, month=options.month)
    with closing(open_reader(options.address, env)) as reader:
        report = verify_bucket(
            reader,
            selection=selection,
            ufs=options.uf,
            keys=options.key,
            require_signature=options.require_signature,
            thorough=options.thorough,
            jobs=options.jobs,
            progress=_show if terminal else None,
        )
    if options.json:
        print(json.dumps(report.to_json(), ensure_ascii=False, indent=2), file=out)
    else:
        width = shutil.get_terminal_size((100, 24)).columns
        print(render_text(report, width=min(max(width, 80), 140)), file=out)
    return report.exit_code


def _show(day: DayReport) -> None:
    sys.stderr.write(f"\r{day.day} {day.state} {day.rows:,} rows {day.seconds:.1f} s\033[K")
    sys.stderr.flush()
