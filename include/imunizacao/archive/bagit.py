"""A month in BagIt (RFC 8493): what is current of each of its days, copied by plain GETs and checked while it is copied.

Files keep the keys that they have in the bucket, below `data/`, so that every path in a manifest leads to the file in the bag too. The
same heads give the same bytes: nothing in a bag depends on who made it and when.
"""

from __future__ import annotations

import calendar
import hashlib
import json
import secrets
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from imunizacao.errors import ConfigurationError, ContractViolation, StorageUnavailable
from imunizacao.events import Progress, log_event, no_progress
from imunizacao.manifests import KEYS_KEY, Day, Head, Keys, PublicKey, Signature, decode, head_key
from imunizacao.signing import read_envelope
from imunizacao.storage import ObjectMissing, ObjectStore, check_key, sha256_of

_DECLARATION: Final = b"BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n"
_SOURCE: Final = "Rede Nacional de Dados em Saúde (RNDS), Ministério da Saúde"
_COPIES_AT_ONCE: Final = 16
_HELP: Final = "See docs/runbook/damaged-manifest.md."


@dataclass(frozen=True, slots=True, kw_only=True)
class Bag:
    """What was exported."""

    path: Path
    days: int
    files: int
    bytes: int
    notes: tuple[tuple[str, str], ...]
    """Labels of `bag-info.txt` that say what is not in it as one might expect, with a day each."""


def export_month(
    public: ObjectStore, month: str, destination: Path, *, uf: str = "", progress: Progress = no_progress
) -> Bag:
    """Write the bag of a month, of all UFs or of one, below `destination`; it appears when it is whole.

    Days that are pending or withdrawn are named in `bag-info.txt`. A bag of that name is never overwritten (`ConfigurationError`); a
    file that is not as its manifest says is a `ContractViolation`, and then there is no bag.
    """
    heads = [(day, _read_head(public, day)) for day in _days_of(month)]
    if not any(head for _, head in heads):
        raise ConfigurationError(
            f"Nothing is published in {month}: {public.bucket} has no head.json of any of its days."
        )
    name = f"imunizacao-{month}" + (f"-uf{uf}" if uf else "")
    final, partial = destination / name, destination / f".{name}.{secrets.token_hex(4)}.partial"
    if final.exists():
        raise ConfigurationError(f"{final} exists and is not overwritten. Move it away, or name another --destination.")
    try:
        partial.mkdir(parents=True)
        try:
            bag = _fill(public, heads, partial, name=name, uf=uf, progress=progress)
            partial.rename(final)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise StorageUnavailable(
            f"The bag cannot be written below {destination} ({type(error).__name__}: {error.strerror}). Nothing was left there. Free "
            "space, or name another --destination; see docs/runbook/full-disk.md."
        ) from error
    log_event("archive.done", month=month, uf=uf or None, days=bag.days, files=bag.files, bytes=bag.bytes)
    return Bag(path=final, days=bag.days, files=bag.files, bytes=bag.bytes, notes=bag.notes)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """An object as a manifest names it."""

    key: str
    sha256: str
    bytes: int


@dataclass(slots=True, kw_only=True)
class _Payload:
    """The folder `data/`, and the hash of everything in it."""

    folder: Path
    public: ObjectStore
    hashes: dict[str, str] = field(default_factory=dict)
    total: int = 0

    def write(self, key: str, body: bytes) -> None:
        """Add bytes that were read already."""
        path = self.folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
        self._add(key, sha256_of(body), len(body))

    def fetch(self, wanted: _Wanted) -> bytes:
        """Add a small object and return its bytes."""
        self.copy_all([wanted])
        return (self.folder / wanted.key).read_bytes()

    def copy_all(self, files: list[_Wanted]) -> None:
        """Add objects, several at once."""
        with ThreadPoolExecutor(_COPIES_AT_ONCE) as pool:
            for wanted in pool.map(self._copy, files):
                self._add(wanted.key, wanted.sha256, wanted.bytes)

    def _copy(self, wanted: _Wanted) -> _Wanted:
        check_key(wanted.key)  # a manifest that was tampered with must not lead out of the folder
        path, digest, size = self.folder / wanted.key, hashlib.sha256(), 0
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with path.open("wb") as target:
                for block in self.public.stream(wanted.key):
                    digest.update(block)
                    size += len(block)
                    target.write(block)
        except ObjectMissing as error:
            raise ContractViolation(
                f"{wanted.key} is named by a manifest and does not exist. If the day was withdrawn meanwhile, export again. {_HELP}"
            ) from error
        if (digest.hexdigest(), size) != (wanted.sha256, wanted.bytes):
            raise ContractViolation(
                f"{wanted.key} has {size} bytes and sha256 {digest.hexdigest()}, its manifest says {wanted.bytes} and {wanted.sha256}. "
                f"{_HELP}"
            )
        return wanted

    def _add(self, key: str, sha256: str, size: int) -> None:
        if key not in self.hashes:
            self.total += size
        self.hashes[key] = sha256


def _fill(
    public: ObjectStore,
    heads: list[tuple[str, tuple[Head, bytes] | None]],
    folder: Path,
    *,
    name: str,
    uf: str,
    progress: Progress,
) -> Bag:
    payload = _Payload(folder=folder / "data", public=public)
    keys = _copy_keys(public, payload)
    notes: list[tuple[str, str]] = []
    days, newest = 0, ""
    for number, (day, found) in enumerate(heads, 1):
        if found is None:
            notes.append(("Day-Pending", day))
            continue
        head, body = found
        newest = max(newest, head.history[-1].published_at[:10])
        payload.write(head_key(day), body)
        if head.current is None:
            notes.append(("Day-Withdrawn", day))
            continue
        days += 1
        notes += _copy_day(payload, head, uf=uf, keys=keys)
        progress("export", number, len(heads))
    manifest = "".join(f"{sha256}  data/{key}\n" for key, sha256 in sorted(payload.hashes.items())).encode()
    info = [
        ("Source-Organization", _SOURCE),
        ("External-Identifier", name),
        (
            "External-Description",
            "Doses de vacina registradas na RNDS, por dia de referência: conteúdo em vigor de cada dia do mês.",
        ),
        *([("UF", uf)] if uf else []),
        ("Bagging-Date", newest),
        ("Payload-Oxum", f"{payload.total}.{len(payload.hashes)}"),
        ("Days-Published", str(days)),
        *notes,
    ]
    tags = {
        "bagit.txt": _DECLARATION,
        "bag-info.txt": "".join(f"{label}: {value}\n" for label, value in info).encode(),
        "manifest-sha256.txt": manifest,
    }
    tags["tagmanifest-sha256.txt"] = "".join(
        f"{sha256_of(body)}  {tag}\n" for tag, body in sorted(tags.items())
    ).encode()
    for tag, body in tags.items():
        (folder / tag).write_bytes(body)
    return Bag(path=folder, days=days, files=len(payload.hashes), bytes=payload.total, notes=tuple(notes))


def _copy_keys(public: ObjectStore, payload: _Payload) -> dict[str, PublicKey]:
    """The public keys of the bucket: signatures in a bag can be checked without it."""
    stored = public.get_or_none(KEYS_KEY)
    if stored is None:
        return {}
    payload.write(KEYS_KEY, stored.body)
    keys = {key.key_id: key for key in decode(Keys, stored.body, KEYS_KEY).keys}
    for key in keys.values():
        payload.copy_all([_Wanted(key=key.path, sha256=key.sha256, bytes=_size(public, key.path))])
    return keys


def _size(public: ObjectStore, key: str) -> int:
    info = public.info(key)
    return info.bytes if info is not None else 0


def _copy_day(payload: _Payload, head: Head, *, uf: str, keys: dict[str, PublicKey]) -> Iterator[tuple[str, str]]:
    """Copy what is current of a day; answers what a reader of the bag should know of it."""
    current = head.current
    if current is None:
        return
    manifest = decode(
        Day,
        payload.fetch(_Wanted(key=current.path, sha256=current.sha256, bytes=current.bytes)),
        current.path,
    )
    if current.signature is None:
        yield "Day-Unsigned", head.day
    else:
        yield from _copy_signature(payload, head, current.signature, keys)
    folder = current.path.rpartition("/")[0] + "/"
    wanted = [
        _Wanted(key=folder + named.path, sha256=named.sha256, bytes=named.bytes)
        for named in (manifest.files.removed, manifest.files.outcome)
    ]
    if uf and uf not in {file.uf for file in manifest.files.ufs}:
        raise ConfigurationError(f"{uf!r} is not the IBGE code of a UF. Example: --uf 53.")
    # UFs that readers must not read, whatever the content has of them.
    closed = head.withdrawn_ufs
    for file in manifest.files.ufs:
        if uf and file.uf != uf:
            continue
        if file.uf in closed:
            yield "UF-Withdrawn", f"{head.day} {file.uf}"
            continue
        body = payload.fetch(_Wanted(key=folder + file.path, sha256=file.sha256, bytes=file.bytes))
        wanted += _named_files(json.loads(body), folder + file.path.rpartition("/")[0] + "/")
    payload.copy_all(wanted)


def _named_files(descriptor: dict[str, Any], folder: str) -> Iterator[_Wanted]:
    """The files that the descriptor of a UF names: schema and dialect, then CSVs."""
    for named in (*descriptor.get("rnds:parts", ()), *descriptor["resources"]):
        yield _Wanted(
            key=folder + named["path"], sha256=str(named["hash"]).removeprefix("sha256:"), bytes=int(named["bytes"])
        )


def _copy_signature(
    payload: _Payload, head: Head, signature: Signature, keys: dict[str, PublicKey]
) -> Iterator[tuple[str, str]]:
    """Copy the signature after it was checked. One by a revoked key goes into the bag, which says so."""
    current, key = head.current, keys.get(signature.key_id)
    if current is None or key is None:
        raise ContractViolation(
            f"The head of {head.day} names a signature by {signature.key_id}, and {KEYS_KEY} has no such key. See docs/runbook/signing-keys.md."
        )
    body = payload.fetch(_Wanted(key=signature.path, sha256=signature.sha256, bytes=signature.bytes))
    signed = read_envelope(body, public_pem=(payload.folder / key.path).read_bytes(), where=signature.path)
    expected = (current.path, current.sha256, head.day, current.content_id, current.rows)
    if (signed.root, signed.sha256, signed.day, signed.content_id, signed.rows) != expected:
        raise ContractViolation(
            f"{signature.path} signs something else than the head of {head.day} names. See docs/runbook/signing-keys.md."
        )
    if key.state == "revoked":
        yield "Day-Signed-By-Revoked-Key", head.day


def _read_head(public: ObjectStore, day: str) -> tuple[Head, bytes] | None:
    stored = public.get_or_none(head_key(day))
    return (decode(Head, stored.body, head_key(day)), stored.body) if stored is not None else None


def _days_of(month: str) -> list[str]:
    return [f"{month}-{day:02d}" for day in range(1, calendar.monthrange(int(month[:4]), int(month[5:7]))[1] + 1)]
