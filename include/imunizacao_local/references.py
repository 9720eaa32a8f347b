"""Load the CNES snapshot that comes with the project into the database: without it no establishment has a municipality."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from imunizacao_local.errors import LocalError
from imunizacao_local.files import read_json, write_json
from imunizacao_local.process import inherited_environment

IMPORT_SECONDS: Final = 600
_PATTERN: Final = "BASE_DE_DADOS_CNES_*.ZIP"


def import_snapshot(*, root: Path, state_dir: Path, environment: Mapping[str, str]) -> str:
    """Import the newest snapshot of the checkout with `python -m imunizacao import-cnes`, once per file content.

    Returns a word on what was done. Raises LocalError, with the program's last lines, when it refuses.
    """
    snapshots = sorted((root / "include" / "reference" / "cnes").glob(_PATTERN))
    if not snapshots:
        raise LocalError(
            f"There is no CNES snapshot {_PATTERN} in {root / 'include' / 'reference' / 'cnes'}",
            next_step="restore the file from git, or make it with `python -m tests.mirror cnes`",
        )
    newest = snapshots[-1]
    mark = state_dir / "references.json"
    wanted: dict[str, object] = {"file": newest.name, "sha256": hashlib.sha256(newest.read_bytes()).hexdigest()}
    if read_json(mark) == wanted:
        return f"{newest.name} (was loaded)"
    log = state_dir / "references.log"
    with log.open("wb") as file:
        try:
            result = subprocess.run(
                [sys.executable, "-m", "imunizacao", "--plain", "import-cnes", str(newest)],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=state_dir,
                env=inherited_environment() | dict(environment),
                timeout=IMPORT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise LocalError(
                f"The import of {newest.name} took longer than {IMPORT_SECONDS} s and was ended",
                next_step="see its log, then run the command again",
                log=log,
            ) from error
    if result.returncode != 0:
        raise LocalError(
            f"The import of {newest.name} ended with exit code {result.returncode}",
            next_step="do what its last line says, then run the command again",
            log=log,
        )
    write_json(mark, wanted)
    return newest.name
