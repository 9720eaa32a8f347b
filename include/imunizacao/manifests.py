"""The JSON files that readers follow: head, day, outcome, month index, catalog, keys. Their JSON Schemas are in `include/contract/schemas/`."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from imunizacao.errors import ContractViolation
from imunizacao.ksafe import PublicCount

HEAD_REASONS = (
    "initial",
    "late-arrivals",
    "correction",
    "deletion",
    "quarantine-replay",
    "rules",
    "references",
    "pseudonym",
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


class DiffFile(_Wire, frozen=True, kw_only=True):
    """One of the three files of a diff."""

    bytes: int
    sha256: str


class DiffFiles(_Wire, frozen=True, kw_only=True):
    """`added.csv`, `changed.csv` and `removed.csv`, in the folder of the diff."""

    added: DiffFile
    changed: DiffFile
    removed: DiffFile


class DiffUf(_Wire, frozen=True, kw_only=True):
    """Rows now = rows before + added − removed + moved in − moved out."""

    added: int
    changed: int
    removed: int
    moved_in: int = 0
    moved_out: int = 0


class Diff(_Wire, frozen=True, kw_only=True):
    """Doses that differ from the superseded revision."""

    path: str
    added: int
    changed: int
    removed: int
    files: DiffFiles
    ufs: dict[str, DiffUf]
    purged_at: str | None = None
    """Since then its files may be gone: they held doses of withdrawn content."""


class Reconciliation(_Wire, frozen=True, kw_only=True):
    """What a reader counted in the bucket after the commit."""

    verdict: str
    checked_at: str
    detail: str | None = None


class Signature(_Wire, frozen=True, kw_only=True):
    """Where the signature of a day's root is, and by which key it was made (ADR 0030)."""

    path: str
    sha256: str
    bytes: int
    key_id: str


class Current(_Wire, frozen=True, kw_only=True):
    """What a reader should read now."""

    content_id: str
    path: str
    sha256: str
    bytes: int
    rows: int
    published_at: str
    data_through: str
    signature: Signature | None = None
    """None in a day that was published without a key."""


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


class Pseudonym(_Wire, frozen=True, kw_only=True):
    """How pseudonyms were made: values of different key ids do not link."""

    method: str
    key_id: str
    previous_key_id: str | None = None
    """Key of `co_paciente_anterior`, while keys change."""


class PublishDecision(_Wire, frozen=True, kw_only=True):
    """Why a person published a day that asked for it. Who it was stays inside."""

    choice: str
    reason: str
    rules: list[str]


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
    quarantined_by_reason: dict[str, PublicCount] | None = None
    diff: Diff | None = None
    reconciliation: Reconciliation | None = None
    references: References | None = None
    rules: Rules | None = None
    pseudonym: Pseudonym | None = None
    purged_at: str | None = None
    """Since then the content folder and the diffs from and to this revision may be gone."""
    decision: PublishDecision | None = None
    signature: Signature | None = None
    ufs: list[str] | None = None
    """UFs that a `withdrawal` or a `restore` is about; None when it is about the whole day."""
    purged_ufs: list[str] | None = None
    """UFs whose CSVs may be gone from the content folder."""


class WithdrawnUf(_Wire, frozen=True, kw_only=True):
    """A UF of a day that readers must not read."""

    revision: int
    """That withdrew it."""
    reason: str
    """Public, Portuguese."""
    at: str
    purged_at: str | None = None
    """Since then its CSVs may be gone."""


class Head(_Wire, frozen=True, kw_only=True):
    """`v1/days/<day>/head.json`: the commit of one day."""

    schema: str
    day: str
    revision: int
    state: str
    current: Current | None
    history: list[Entry]
    withdrawn_ufs: dict[str, WithdrawnUf] = msgspec.field(default_factory=dict)
    """By IBGE code; whatever the content, as long as they are here."""

    @property
    def withdrawn_by_person(self) -> bool:
        """Whether a person took the whole day back: no run publishes it again by itself. Reconcile's own verdict is `gap`."""
        last = self.history[-1]
        judged = last.reconciliation is not None and last.reconciliation.verdict == "gap"
        return self.current is None and last.reason == "withdrawal" and not judged

    @property
    def purged_ufs(self) -> frozenset[str]:
        """Withdrawn UFs whose CSVs may be gone, from any content of the day."""
        return frozenset(uf for uf, withdrawn in self.withdrawn_ufs.items() if withdrawn.purged_at)


class UfFile(_Wire, frozen=True, kw_only=True):
    """A UF in day.json: its descriptor."""

    uf: str
    sg_uf: str = msgspec.field(name="sg_uf")
    path: str
    sha256: str
    bytes: int
    rows: int
    municipalities: int
    residents: int | None = None
    """Doses of residents of the UF, wherever given; the file exists when `residence.known` of the day is not 0."""


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


class Residence(_Wire, frozen=True, kw_only=True):
    """Published doses with and without a UF of residence: known + unknown = rows."""

    known: int
    unknown: int


class ContractVersion(_Wire, frozen=True, kw_only=True):
    """Which contract the columns follow."""

    name: str
    version: str


class Day(_Wire, frozen=True, kw_only=True):
    """`c-<contentId>/day.json`: the root of everything published for a day. Says nothing of run, clock or commit."""

    schema: str
    day: str
    timezone: str
    partition_by: str
    contract: ContractVersion
    rows: int
    municipalities: int
    residence: Residence | None = None
    """None only in a day that was written before residents had files."""
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
    count: PublicCount
    """Doses, masked where they are few; 0 or 1 for a rule about the day as a whole."""
    scope: str = "row"
    note: str | None = None


class Outcome(_Wire, frozen=True, kw_only=True):
    """`c-<contentId>/outcome.json`: what was not published, in counts; those of small groups are masked (`ksafe`)."""

    schema: str
    day: str
    account: OutcomeAccount
    quarantined_by_reason: dict[str, PublicCount]
    quarantined_by_uf: dict[str, dict[str, PublicCount]]
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
    residents: dict[str, int] | None = None
    """Doses of residents by UF; empty when the day has no files of residents."""
    withdrawn_ufs: list[str] | None = None
    """UFs that must not be read: they count nowhere in this row."""


class Month(_Wire, frozen=True, kw_only=True):
    """`v1/months/<month>/index.json`: derived from the heads of its days."""

    schema: str
    month: str
    days: list[MonthDay]


class BulkFacts(_Wire, frozen=True, kw_only=True):
    """What the standard has no field for, about one file of a `$bulk-publish` manifest."""

    sha256: str = msgspec.field(name="rnds:sha256")
    day: str = msgspec.field(name="rnds:day")
    operation: str | None = msgspec.field(name="rnds:operation", default=None)


class BulkFile(_Wire, frozen=True, kw_only=True):
    """One file: of doses (`output`), or of documents that the source took back (`deleted`, without a type)."""

    type: str | None = None
    url: str
    count: int
    file_size: int
    extension: BulkFacts


class BulkDay(_Wire, frozen=True, kw_only=True):
    """What of a day is in a manifest."""

    revision: int
    content_id: str | None = None
    """None: withdrawn, no files."""
    data_through: str


class BulkMonth(_Wire, frozen=True, kw_only=True):
    """Which month, and which revisions of its days, a `$bulk-publish` manifest lists."""

    schema: str = msgspec.field(name="rnds:schema")
    month: str = msgspec.field(name="rnds:month")
    days: dict[str, BulkDay] = msgspec.field(name="rnds:days")


class BulkPublish(_Wire, frozen=True, kw_only=True):
    """`v1/months/<month>/bulk-publish.json`: the days of a month as HL7 Bulk Data 4.0 (ballot) lists files (ADR 0031)."""

    manifest_type: str
    transaction_time: str
    update_cadence: str
    requires_access_token: bool
    output_format: str
    output: list[BulkFile]
    deleted: list[BulkFile]
    extension: BulkMonth


class Operation(_Wire, frozen=True, kw_only=True):
    """One dataset that a reader may ask for."""

    slug: str
    title: str
    uf: str
    sg_uf: str = msgspec.field(name="sg_uf")
    description: str | None = None


class CatalogMonth(_Wire, frozen=True, kw_only=True):
    """One month in the catalog."""

    month: str
    path: str
    days: int
    rows: int
    residents: int = 0
    """Doses in files of residents."""
    bulk_publish: str | None = None
    """Key of the month's `$bulk-publish` manifest; None only in a catalog that was written before there was one."""
    revisions: int = 0
    """Sum of the revisions of its days. It only grows, so two states of the month never give the same catalog: a writer that was
    asleep cannot take the second for the first (compare-and-swap compares contents)."""


class Totals(_Wire, frozen=True, kw_only=True):
    """Sums over all months."""

    days: int
    rows: int
    residents: int = 0


class DictionaryFile(_Wire, frozen=True, kw_only=True):
    """The data dictionary as a page for people."""

    path: str
    sha256: str
    bytes: int


class Catalog(_Wire, frozen=True, kw_only=True):
    """`v1/catalog.json`: where a reader starts."""

    schema: str
    operations: list[Operation]
    contract: ContractVersion
    dictionary: DictionaryFile | None = None
    """None only in a catalog that was written before there was a page."""
    months: list[CatalogMonth]
    totals: Totals
    keys: str | None = None
    """Key of the list of public keys; None while no day was ever signed."""


class PublicKey(_Wire, frozen=True, kw_only=True):
    """One key that signs or has signed."""

    key_id: str
    algorithm: str
    path: str
    sha256: str
    state: str
    """`active`, `retired` (its signatures stay good) or `revoked` (none of them is good)."""
    since: str
    until: str | None = None
    """When it was retired or revoked."""


class Keys(_Wire, frozen=True, kw_only=True):
    """`v1/keys/index.json`: every key that readers may meet in a signature."""

    schema: str
    keys: list[PublicKey]


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


def bulk_key(month: str) -> str:
    """Key of the `$bulk-publish` manifest of a month."""
    return f"v1/months/{month}/bulk-publish.json"


def public_key_key(key_id: str) -> str:
    """Key of a public key in PEM."""
    return f"v1/keys/{key_id}.pub"


def signature_key(root: str, key_id: str) -> str:
    """Key of the signature that one key made of a root, beside the root."""
    return f"{root.removesuffix('.json')}.{key_id}.dsse.json"


CATALOG_KEY = "v1/catalog.json"
DCAT_KEY = "v1/catalog.jsonld"
KEYS_KEY = "v1/keys/index.json"
