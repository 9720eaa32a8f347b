"""`python -m imunizacao export bagit 2026-03 --destination DIR`."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

from imunizacao.archive.bagit import export_month
from imunizacao.errors import ConfigurationError
from imunizacao.settings import bucket_settings_from_env
from imunizacao.storage import open_public_store


def add_export(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    export = commands.add_parser(
        "export",
        help="write what is published as an archive that stands on its own",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    own = export.add_subparsers(required=True, metavar="form")
    bagit = own.add_parser("bagit", help="a month in BagIt (RFC 8493): python -m imunizacao export bagit 2026-03 …")
    bagit.add_argument("month", help="YYYY-MM")
    bagit.add_argument("--destination", type=Path, required=True, help="folder that gets the bag, imunizacao-YYYY-MM")
    bagit.add_argument("--uf", default="", help="IBGE code of one UF (default: all)")
    bagit.set_defaults(command=_bagit)
    export.epilog = bagit.format_usage()


def _bagit(options: argparse.Namespace, env: Mapping[str, str], out: TextIO, terminal: bool) -> int:
    if not re.fullmatch(r"[0-9]{4}-(0[1-9]|1[0-2])", options.month):
        raise ConfigurationError(f"{options.month!r} is not a month. Example: 2026-03.")
    if options.uf and not re.fullmatch(r"[1-5][0-9]", options.uf):
        raise ConfigurationError(f"{options.uf!r} is not the IBGE code of a UF. Example: --uf 53.")
    public = open_public_store(bucket_settings_from_env(env).storage)
    public.require_bucket()
    bag = export_month(public, options.month, options.destination, uf=options.uf)
    print(f"bag    {bag.path}", file=out)
    print(f"days   {bag.days}", file=out)
    print(f"files  {bag.files} ({bag.bytes} bytes), each compared with its manifest", file=out)
    for label, value in bag.notes:
        print(f"{label}: {value}", file=out)
    return 0
