"""The JSON files that readers follow: head, day, outcome, month index, catalog. Their JSON Schemas are in `include/contract/schemas/`."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from imunizacao.errors import ContractViolation

HEAD_REASONS = (
    "initial",
    "late-arrivals",
    "correction",
    "deletion",
    "quarantine-replay",
    "rules",
    "references",
    "schema",
    "manual",
    "withdrawal",
    "restore",
)


class _Wire(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True, forbid_unknown_fields=True):
    """Camel case outside, snake case inside; optional fields are left out when they say nothing."""


class Source(_Wire, frozen=True, kw_only=True):
    """Documents: fetched = unique + duplicates."""

    announced: int | None
    fetched: int
    duplicates: int
    unique: int


class Account(_Wire, frozen=True, kw_only=True):
    """Doses: doses = published + quarantined + superseded + removed."""

    doses: int
    published: int
    quarantined: int
    superseded: int
    removed: int


class Diff(_Wire, frozen=True, kw_only=True):
    """Doses that differ from the superseded revision."""

    added: int
    changed: int
    removed: int
    path: str | None = None


class Reconciliation(_Wire, frozen=True, kw_only=True):
    """What a reader counted in the bucket after the commit."""

    verdict: str
    checked_at: str
    detail: str | None = None


class Current(_Wire, frozen=True, kw_only=True):
    """What a reader should read now."""

    content_id: str
    path: str
    sha256: str
    bytes: int
    rows: int
    published_at: str
    data_through: str


class CnesVersion(_Wire, frozen=True, kw_only=True):
    """CNES snapshot."""

    competencia: str
    sha256: str


class TableVersion(_Wire, frozen=True, kw_only=True):
    """A reference table or group of tables."""

    sha256: str
    version: str | None = None


class References(_Wire, frozen=True, kw_only=True):
    """Reference tables that a day was made with."""

    cnes: CnesVersion
    ibge: TableVersion
    pni: TableVersion


class Rules(_Wire, frozen=True, kw_only=True):
    """Suite that a day was judged by."""

    suite: str
    sha256: str


class Entry(_Wire, frozen=True, kw_only=True):
    """One revision in the history of a day."""

    revision: int
    state: str
    content_id: str | None
    path: str | None
    sha256: str | None
    bytes: int | None
    published_at: str
    data_through: str
    reason: str
    supersedes: int | None
    commit_token: str
    run_id: str
    code_version: str
    note: str | None = None
    source: Source | None = None
    account: Account | None = None
    quarantined_by_reason: dict[str, int] | None = None
    diff: Diff | None = None
    reconciliation: Reconciliation | None = None
    references: References | None = None
    rules: Rules | None = None
    purged_at: str | None = None


class Head(_Wire, frozen=True, kw_only=True):
    """`v1/days/<day>/head.json`: the commit of one day."""

    schema: str
    day: str
    revision: int
    state: str
    current: Current | None
    history: list[Entry]


class UfFile(_Wire, frozen=True, kw_only=True):
    """A UF in day.json: its descriptor."""

    uf: str
    sg_uf: str = msgspec.field(name="sg_uf")
    path: str
    sha256: str
    bytes: int
    rows: int
    municipalities: int


class RemovedFile(_Wire, frozen=True, kw_only=True):
    """removed.csv in day.json."""

    path: str
    sha256: str
    bytes: int
    rows: int


class OutcomeFile(_Wire, frozen=True, kw_only=True):
    """outcome.json in day.json."""

    path: str
    sha256: str
    bytes: int


class DayFiles(_Wire, frozen=True, kw_only=True):
    """All that day.json names."""

    ufs: list[UfFile]
    removed: RemovedFile
    outcome: OutcomeFile


class ContractVersion(_Wire, frozen=True, kw_only=True):
    """Which contract the columns follow."""

    name: str
    version: str


class Pseudonym(_Wire, frozen=True, kw_only=True):
    """How pseudonyms were made: values of different key ids do not link."""

    method: str
    key_id: str


class Day(_Wire, frozen=True, kw_only=True):
    """`c-<contentId>/day.json`: the root of everything published for a day. Says nothing of run, clock or commit."""

    schema: str
    day: str
    timezone: str
    partition_by: str
    contract: ContractVersion
    rows: int
    municipalities: int
    files: DayFiles
    references: References
    rules: Rules
    pseudonym: Pseudonym
    neutralised: dict[str, int]
    blanked: dict[str, int]
    completeness: dict[str, int]


class OutcomeAccount(_Wire, frozen=True, kw_only=True):
    """The account inside outcome.json."""

    unique: int
    doses: int
    published: int
    quarantined: int
    superseded: int
    removed: int


class Warning(_Wire, frozen=True, kw_only=True):
    """A rule that reports without holding the day."""

    rule: str
    count: int


class Outcome(_Wire, frozen=True, kw_only=True):
    """`c-<contentId>/outcome.json`: what was not published, in counts."""

    schema: str
    day: str
    account: OutcomeAccount
    quarantined_by_reason: dict[str, int]
    quarantined_by_uf: dict[str, dict[str, int]]
    warnings: list[Warning]


class Root(_Wire, frozen=True, kw_only=True):
    """Where the root of a day is."""

    path: str
    sha256: str


class MonthDay(_Wire, frozen=True, kw_only=True):
    """One day in a month index."""

    day: str
    state: str
    revision: int
    rows: int
    path: str
    root: Root | None
    ufs: dict[str, int]


class Month(_Wire, frozen=True, kw_only=True):
    """`v1/months/<month>/index.json`: derived from the heads of its days."""

    schema: str
    month: str
    days: list[MonthDay]


class Operation(_Wire, frozen=True, kw_only=True):
    """One dataset that a reader may ask for."""

    slug: str
    title: str
    uf: str
    sg_uf: str = msgspec.field(name="sg_uf")


class CatalogMonth(_Wire, frozen=True, kw_only=True):
    """One month in the catalog."""

    month: str
    path: str
    days: int
    rows: int


class Totals(_Wire, frozen=True, kw_only=True):
    """Sums over all months."""

    days: int
    rows: int


class Catalog(_Wire, frozen=True, kw_only=True):
    """`v1/catalog.json`: where a reader starts."""

    schema: str
    operations: list[Operation]
    contract: ContractVersion
    months: list[CatalogMonth]
    totals: Totals


W = TypeVar("W", bound=_Wire)


def encode(document: _Wire) -> bytes:
    """Indented UTF-8 JSON with a final line break: people read these files too. Same document, same bytes."""
    return msgspec.json.format(msgspec.json.encode(document, order="deterministic"), indent=2) + b"\n"


def decode(kind: type[W], body: bytes, where: str) -> W:
    """Read a manifest; one that does not have the expected form is a `ContractViolation` naming the object."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise ContractViolation(
            f"{where} is not a valid {kind.__name__.lower()} manifest: {error}. It was changed by hand or by other software; "
            "see docs/runbook/damaged-manifest.md."
        ) from error


def head_key(day: str) -> str:
    """Key of the head of a day."""
    return f"v1/days/{day}/head.json"


def content_prefix(day: str, content_id: str) -> str:
    """Key prefix of an immutable content folder, ending in `/`."""
    return f"v1/days/{day}/c-{content_id}/"


def month_key(month: str) -> str:
    """Key of a month index."""
    return f"v1/months/{month}/index.json"


CATALOG_KEY = "v1/catalog.json"
