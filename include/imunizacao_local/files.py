"""Small files of the state folder: private, whole or absent, never half-written."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from imunizacao_local.errors import LocalError

PRIVATE_FOLDER = 0o700
PRIVATE_FILE = 0o600
_ED25519_PKCS8 = bytes.fromhex("302e020100300506032b657004220420")
"""All of an Ed25519 private key in PKCS#8 but its 32 random bytes (RFC 8410)."""


def make_private_folder(path: Path) -> Path:
    """Create a folder (and its parents) that only its owner can enter; return it."""
    path.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
    return path


def write_private(path: Path, text: str) -> None:
    """Replace a file with `text`, mode 0600. A reader sees the old text or the new one."""
    make_private_folder(path.parent)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Mapping[str, object]) -> None:
    """Replace a JSON file, mode 0600."""
    write_private(path, json.dumps(value, indent=2, sort_keys=True) + "\n")


def read_json(path: Path) -> dict[str, object] | None:
    """Read a JSON object; None when the file is absent. Raises LocalError when it is not a JSON object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise LocalError(
            f"{path} is not readable JSON: {error}",
            next_step="delete the file, or the whole state with `python -m imunizacao_local reset --yes`",
        ) from error
    if not isinstance(value, dict):
        raise LocalError(
            f"{path} holds {type(value).__name__}, a JSON object was expected",
            next_step="delete the file, or the whole state with `python -m imunizacao_local reset --yes`",
        )
    return value


def read_or_create_secret(path: Path, *, characters: int = 43) -> str:
    """Return the secret kept in `path`; the first call makes a random one (URL-safe alphabet, mode 0600)."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        secret = secrets.token_urlsafe(characters)[:characters]
        write_private(path, secret + "\n")
        return secret


def create_signing_key(path: Path) -> Path:
    """Return the file of an Ed25519 key in PEM (PKCS#8, mode 0600); the first call makes a random one."""
    if not path.exists():
        body = base64.b64encode(_ED25519_PKCS8 + secrets.token_bytes(32)).decode()
        write_private(path, f"-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n")
    return path


@contextmanager
def exclusive(path: Path, *, what: str) -> Iterator[None]:
    """Hold the lock file `path` for the length of the block. Raises LocalError when another process holds it."""
    make_private_folder(path.parent)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LocalError(
                f"{what} is already being done by another process (lock {path})",
                next_step="wait for the other command to end, then run this one again",
            ) from error
        yield
