"""Whether a content is in the bucket as it was published: from its day.json down, every object by size and hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import msgspec

from imunizacao.errors import ContractViolation
from imunizacao.manifests import Day, decode
from imunizacao.storage import ObjectStore, sha256_of

_AT_ONCE: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """An object of a content as the manifest above it names it."""

    path: str
    """Within the content folder."""
    sha256: str
    bytes: int
    uf: str
    """Empty for what belongs to the whole day."""


class _Resource(msgspec.Struct, frozen=True):
    path: str
    hash: str
    bytes: int


class _Package(msgspec.Struct, frozen=True):
    resources: list[_Resource]
    parts: list[_Resource] = msgspec.field(name="rnds:parts", default_factory=list)


def read_root(public: ObjectStore, path: str, sha256: str) -> Day:
    """The day.json of a content; `ContractViolation` when it is missing or another one."""
    stored = public.get_or_none(path)
    if stored is None or sha256_of(stored.body) != sha256:
        what = "is missing" if stored is None else "has another sha256 than the history says"
        raise ContractViolation(f"{path} {what}. See docs/runbook/damaged-manifest.md.")
    return decode(Day, stored.body, path)


def faults_of(
    public: ObjectStore,
    path: str,
    day: Day,
    *,
    only: frozenset[str] = frozenset(),
    without: frozenset[str] = frozenset(),
) -> list[str]:
    """Objects of a content that are missing or other ones, as sentences; `only` these UFs, or all but the UFs `without`.

    Sizes and hashes are those that the store keeps; an object without a stored hash is read.
    """
    folder = path.rpartition("/")[0] + "/"
    faults: list[str] = []
    named: list[Named] = []
    if not only:
        files = day.files
        named += [
            Named(path=file.path, sha256=file.sha256, bytes=file.bytes, uf="")
            for file in (files.removed, files.outcome)
        ]
    for uf in day.files.ufs:
        if uf.uf in without or (only and uf.uf not in only):
            continue
        stored = public.get_or_none(folder + uf.path)
        if stored is None or sha256_of(stored.body) != uf.sha256:
            faults.append(f"{uf.path} {'is missing' if stored is None else 'has another sha256'}")
            continue
        named += _below(stored.body, uf.path, uf.uf)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        faults += [fault for fault in pool.map(lambda one: _fault(public, folder, one), named) if fault]
    return faults


def _below(body: bytes, path: str, uf: str) -> Iterator[Named]:
    try:
        package = msgspec.json.decode(body, type=_Package)
    except msgspec.MsgspecError as error:
        raise ContractViolation(
            f"{path} is not a descriptor ({error}). See docs/runbook/damaged-manifest.md."
        ) from error
    base = path.rpartition("/")[0] + "/"
    for resource in (*package.parts, *package.resources):
        yield Named(
            path=base + resource.path, sha256=resource.hash.removeprefix("sha256:"), bytes=resource.bytes, uf=uf
        )


def _fault(public: ObjectStore, folder: str, named: Named) -> str:
    info = public.info(folder + named.path)
    if info is None:
        return f"{named.path} is missing"
    if info.bytes != named.bytes:
        return f"{named.path} has {info.bytes} bytes instead of {named.bytes}"
    found = info.sha256 or _hash(public, folder + named.path)
    return "" if found == named.sha256 else f"{named.path} has another sha256"


def _hash(public: ObjectStore, key: str) -> str:
    digest = hashlib.sha256()
    for block in public.stream(key):
        digest.update(block)
    return digest.hexdigest()
