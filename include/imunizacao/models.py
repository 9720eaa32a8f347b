"""What stages hand to each other: receipts (locations, counts, hashes), never rows."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import NewType, Self

import msgspec

from imunizacao.errors import ContractViolation
from imunizacao.reference_day import ReferenceDay

Ibge6 = NewType("Ibge6", str)
"""Municipality code without check digit, as event columns carry it."""
Ibge7 = NewType("Ibge7", str)
"""Municipality code with check digit, as the IBGE publishes it."""
Cnes = NewType("Cnes", str)
"""Establishment code: 7 digits with leading zeros."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContext:
    """One attempt to publish one day."""

    day: ReferenceDay
    run_id: str
    """Safe in an object key; retries of the same run share it."""
    code_version: str

    @classmethod
    def create(cls, *, day: ReferenceDay, run_id: str, code_version: str) -> Self:
        """Make a context; characters of `run_id` that a key should not have become `-`."""
        return cls(day=day, run_id=re.sub(r"[^A-Za-z0-9._-]", "-", run_id), code_version=code_version)

    def prefix(self, stage: str) -> str:
        """Key prefix of a stage in the work bucket, ending in `/`."""
        return f"v1/day={self.day}/run={self.run_id}/{stage}/"


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectRef:
    """One object of the work bucket."""

    key: str
    sha256: str
    bytes: int
    rows: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """Base of all receipts. Written last by a stage; a valid one means that the stage is done.

    `fingerprint` covers the inputs (hashes), the code version and the reference versions: a receipt with another
    fingerprint is of another piece of work and is not reused.
    """

    stage: str
    day: str
    run_id: str
    code_version: str
    fingerprint: str
    seconds: float = 0.0

    def to_json(self) -> str:
        """Text for XCom and for the work bucket: locations, counts and hashes only."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read what `to_json` wrote; anything else is a `ContractViolation`."""
        try:
            return msgspec.json.decode(text, type=cls)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            raise ContractViolation(
                f"A receipt of {cls.__name__} cannot be read ({error}). Clear the stage that wrote it and run it again."
            ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class LandingSlice:
    """One window of the day that is whole in landing."""

    start: str
    """First instant, UTC."""
    end: str
    """First instant that no longer belongs to it, UTC."""
    announced: int
    """Total of the mirror, the same before and after the walk."""
    distinct: int
    """Different document versions received; equals `announced`."""
    lines: int
    """Landed entries, repeated ones included."""
    rejected: int
    """Entries kept beside landing with a reason."""
    parts: list[ObjectRef]
    page_log: ObjectRef
    rejects: ObjectRef | None
    pages: int
    attempts: int
    run_id: str
    """Run that walked it; an earlier one when the window was reused."""

    @property
    def objects(self) -> list[ObjectRef]:
        """Every object of the window."""
        return [*self.parts, self.page_log, *([self.rejects] if self.rejects else [])]


@dataclass(frozen=True, slots=True, kw_only=True)
class LandingManifest:
    """The landing of a day in total order: windows by start, parts by number. Windows without documents are left out."""

    day: str
    slices: list[LandingSlice]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractReceipt(Receipt):
    """All document versions of the day are in landing."""

    manifest: ObjectRef
    """JSON: the slices with their parts; see `LandingManifest`."""
    announced: int
    """Total that the mirror announced for the day, counted again after the walk."""
    fetched: int
    """Entries received, repeated ones included: landed lines + rejected entries."""
    rejected: int
    """Entries that cannot be a landing line (truncated, too large, too deep): kept beside landing with a reason."""
    slices: int
    slices_reused: int
    pages: int
    requests: int
    retries: int
    bytes_received: int
    extracted_at: str
    """Instant (UTC) of the last recount: the fence that keeps an older extract from replacing a newer one."""
    landing_sha256: str
    """Over the sorted hashes of all landed parts: the identity of the input."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentAccount:
    """fetched = unique + duplicates."""

    fetched: int
    unique: int
    duplicates: int

    def gap(self) -> str | None:
        """What does not add up, or None."""
        if self.fetched != self.unique + self.duplicates:
            return f"fetched {self.fetched} ≠ unique {self.unique} + duplicates {self.duplicates}"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class DoseAccount:
    """doses = published + quarantined + superseded + removed (a document without a readable dose counts 1)."""

    doses: int
    published: int
    quarantined: int
    superseded: int
    removed: int

    def gap(self) -> str | None:
        """What does not add up, or None."""
        total = self.published + self.quarantined + self.superseded + self.removed
        if self.doses != total:
            return (
                f"doses {self.doses} ≠ published {self.published} + quarantined {self.quarantined} + "
                f"superseded {self.superseded} + removed {self.removed} = {total}"
            )
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceVersions:
    """Which reference tables a day was made with."""

    cnes_competencia: str
    """`AAAAMM` of the CNES snapshot."""
    cnes_sha256: str
    ibge_sha256: str
    pni_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FlattenReceipt(Receipt):
    """Every unique document became doses with one fate each."""

    dose: ObjectRef
    """Parquet, one row per dose that is neither superseded nor removed nor structurally unreadable."""
    quarantine: ObjectRef
    """Parquet `quarantine_dose` of structural reasons, same grain plus reason codes."""
    removed: ObjectRef
    """Parquet of the removals that the source states, in contract order of `removed.csv`."""
    documents: DocumentAccount
    doses: int
    candidates: int
    """Rows of `dose`."""
    quarantined: int
    superseded: int
    removed_doses: int
    slow_path: int
    """Documents whose shape took the order-free path."""
    pseudonym_key_id: str
    references: ReferenceVersions
    code_counts: dict[str, int] = field(default_factory=dict)
    """Unknown codes by column and profile generations seen: counts only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleResult:
    """Outcome of one rule over the day: counts, never values."""

    rule: str
    severity: str
    scope: str
    """`row` or `day`."""
    on_fail: str
    """`quarantine`, `flag` or `gate`."""
    success: bool
    evaluated: bool
    checked: int
    failed: int
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidateReceipt(Receipt):
    """The rules were evaluated, the bad rows are in quarantine, the gate has decided."""

    rules: list[RuleResult]
    suite_sha256: str
    quarantine: ObjectRef
    """Parquet: structural reasons and rule reasons together; the whole quarantine of the day."""
    bad_keys: ObjectRef
    """Parquet (`nu_parte`, `nu_linha`, `nu_dose`): rows of `dose` that must not be published."""
    checked: int
    quarantined_by_rules: int
    quarantined: int
    quarantined_by_reason: dict[str, int]
    quarantined_by_uf: dict[str, dict[str, int]]
    """UF code (or `00` when unknown) → reason → doses; a dose with two reasons counts under each."""
    publish: bool
    held_because: list[str]
    warnings: list[str]
    docs_key: str
    """Key of the Data Docs page of the day in the work bucket."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CutFile:
    """One published CSV: the header, then `length` bytes of the body from `offset`."""

    path: str
    """Relative to the day's content folder, for example `uf=53/imunizacao-total-df_2026-03-14.csv`."""
    uf: str
    """IBGE code of the UF, 2 digits."""
    sg_uf: str
    municipio: str
    """IBGE code of the municipality, 6 digits; empty in the file of a whole UF."""
    rows: int
    bytes: int
    sha256: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CutList:
    """All published CSVs of a day, UFs first within each UF, in path order of the codes."""

    day: str
    header: str
    body_bytes: int
    files: list[CutFile]


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitReceipt(Receipt):
    """The day's rows are one sorted body, with the cut list that makes the published files."""

    body: ObjectRef
    """zstd text: the rows of all files in total order, without headers."""
    cuts: ObjectRef
    """JSON: files with path, rows, bytes, sha256 (header included); see `CutList`."""
    removed: ObjectRef
    """`removed.csv`, bytes as published."""
    content_id: str
    rows: int
    ufs: int
    municipalities: int
    removals: int
    neutralised: dict[str, int]
    """Column → values that got a leading apostrophe because a spreadsheet would run them."""
    blanked: dict[str, int]
    """Column → values outside the contract of an optional column, left empty."""
    completeness: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishInputs:
    """Receipts of the stages before; together they are the account of the day."""

    extract: ExtractReceipt
    flatten: FlattenReceipt
    validate: ValidateReceipt
    split: SplitReceipt

    @property
    def account(self) -> DoseAccount:
        """Where every dose of the unique documents went."""
        return DoseAccount(
            doses=self.flatten.doses,
            published=self.split.rows,
            quarantined=self.validate.quarantined,
            superseded=self.flatten.superseded,
            removed=self.flatten.removed_doses,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishReceipt(Receipt):
    """What readers see now."""

    outcome: str
    """`published`, `unchanged` (same content, no new revision) or `superseded` (a newer extract is there)."""
    revision: int
    state: str
    content_id: str
    root_path: str
    """Key of `day.json` in the public bucket."""
    root_sha256: str
    head_path: str
    doses: DoseAccount
    documents: DocumentAccount
    files: int
    bytes: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconcileReceipt(Receipt):
    """What a reader counts in the public bucket agrees with the account."""

    verdict: str
    revision: int
    rows: int
    files: int
    bytes: int
    detail: str = ""


def fingerprint(stage: str, code_version: str, inputs: dict[str, str]) -> str:
    """sha256 over the stage, the code version and the named hashes of all inputs."""
    digest = hashlib.sha256(f"{stage}\0{code_version}\0".encode())
    for name in sorted(inputs):
        digest.update(f"{name}\0{inputs[name]}\0".encode())
    return digest.hexdigest()


def to_json(value: object) -> str:
    """Any receipt-like value (dataclasses, dicts, strings, numbers) as JSON text."""
    return msgspec.json.encode(value).decode()
