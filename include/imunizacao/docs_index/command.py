"""`python -m imunizacao docs-index`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TextIO

from imunizacao.docs_index.index import INDEX_KEY, rebuild_index
from imunizacao.settings import settings_from_env
from imunizacao.storage import open_public_store, open_work_store


def add_docs_index(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    index = commands.add_parser("docs-index", help="make the index of the Data Docs again, from what is in the buckets")
    index.set_defaults(command=_docs_index)


def _docs_index(options: argparse.Namespace, env: Mapping[str, str], out: TextIO, terminal: bool) -> int:
    storage = settings_from_env(env).storage
    days = rebuild_index(open_work_store(storage), open_public_store(storage))
    print(f"{days} days: {storage.work_bucket}/{INDEX_KEY}", file=out)
    return 0
