"""Write the identities of the object store from the environment, then become `weed`.

SeaweedFS takes identities from a file only. It is written with mode 0600 at every start, where
`-s3.config` says (a memory disk), so no secret is in the image or on a volume. The portal reads the public bucket and nothing else.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CONFIG_FLAG = "-s3.config="


def identities(env: Mapping[str, str]) -> dict[str, Any]:
    """Make the two identities; a missing variable is a KeyError that names it."""
    public = env["S3_PUBLIC_BUCKET"]

    def identity(name: str, actions: list[str]) -> dict[str, Any]:
        pair = {
            "accessKey": env[f"S3_{name.upper()}_ACCESS_KEY"],
            "secretKey": env[f"S3_{name.upper()}_SECRET_KEY"],
        }
        if not all(pair.values()):
            raise SystemExit(f"S3_{name.upper()}_ACCESS_KEY and its secret must not be empty.")
        return {"name": name, "credentials": [pair], "actions": actions}

    return {
        "identities": [
            identity("pipeline", ["Admin", "Read", "List", "Tagging", "Write"]),
            identity("portal", [f"Read:{public}", f"List:{public}"]),
        ]
    }


def write_identities(path: Path, document: dict[str, Any]) -> None:
    """Replace the file; nobody but its owner can read it at any moment."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(document, file)


if __name__ == "__main__":
    config = next((flag for flag in sys.argv if flag.startswith(CONFIG_FLAG)), None)
    if config is None:
        raise SystemExit(f"{CONFIG_FLAG}<file> is missing: without it the store is open to everybody.")
    write_identities(Path(config.removeprefix(CONFIG_FLAG)), identities(os.environ))
    clean = {name: value for name, value in os.environ.items() if not name.startswith("S3_")}
    os.execvpe("weed", ["weed", *sys.argv[1:]], clean)  # noqa: S606
