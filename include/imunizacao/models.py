"""What stages hand to each other: receipts (locations, counts, hashes), never rows."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import NewType, Self

import msgspec

from imunizacao.decision import Decision
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
    way: str = "documents"
    """How the mirror was asked: `documents`, `resources` or `export`."""
    unknown_elements: dict[str, int] = field(default_factory=dict)
    """Element that no known profile has → entries received with it; at most 50 by name, the others under `(outros)`."""

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
    way: str = "documents"
    """How the mirror was asked: `documents`, `resources` or `export`."""
    pages_resumed: int = 0
    """Pages taken from the checkpoints of a task that was cut off."""
    accepted_stale: bool = False
    """An engineer said that the day is whole though the mirror had nothing newer."""
    unknown_elements: dict[str, int] = field(default_factory=dict)
    """Element that no known profile has → entries of the day with it; at most 50 by name, the others under `(outros)`."""


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
    cnes_choice: str = ""
    """How the CNES snapshot was chosen: `newest`, `of-the-day`, or the competência itself."""
    ibge_version: str = ""
    """Of the stored snapshot; empty for the project's own tables."""
    pni_version: str = ""
    """Stored tables with their versions; empty when all are the project's own."""


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
    pseudonym_previous_key_id: str = ""
    """Key that made `co_paciente_anterior`; empty outside of a change of keys."""
    landing: ObjectRef | None = None
    """The manifest that says which landed part has which number; always there in receipts of this version."""
    extracted_at: str = ""
    """Of the landing: see `ExtractReceipt`."""
    code_counts: dict[str, int] = field(default_factory=dict)
    """Doses with an unknown code by column; documents by profile generation, by the name of an unknown profile, and of other types by type."""

    @property
    def unknown_profiles(self) -> dict[str, int]:
        """Documents by the name of each profile that the table of generations does not have."""
        start = "perfil desconhecido "
        return {name.removeprefix(start): count for name, count in self.code_counts.items() if name.startswith(start)}


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleResult:
    """Outcome of one rule over the day: counts, never values."""

    rule: str
    severity: str
    scope: str
    """`row` or `day`."""
    on_fail: str
    """`quarantine`, `flag`, `gate` or `ask`."""
    success: bool
    evaluated: bool
    checked: int
    failed: int
    note: str
    observed: float | None = None
    """What a day rule found: a count or a share."""
    compares_history: bool = False
    """Whether it compares the day with earlier ones: what is published must not depend on that."""

    @property
    def holds(self) -> bool:
        """Whether it closes the gate: critical and failed, unless a person may decide; or not evaluated, whatever it is."""
        return not self.evaluated or (self.severity == "critical" and not self.success and self.on_fail != "ask")

    @property
    def asks(self) -> bool:
        """Whether a person must decide."""
        return self.evaluated and not self.success and self.on_fail == "ask"


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
    asks: list[str] = field(default_factory=list)
    """Rules that want a person to decide; a day that is held is not asked about."""

    def failed(self, rules: list[str]) -> list[RuleResult]:
        """The results of some rules, in the order of the suites."""
        return [rule for rule in self.rules if rule.rule in rules]


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
    residents: list[CutFile] = field(default_factory=list)
    """The 27 files of residents, by UF; none on a day without residence. Offsets are those of the gathered rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitReceipt(Receipt):
    """The day's rows are one sorted body, with the cut list that makes the published files."""

    body: ObjectRef
    """zstd text: the rows of all files in total order, without headers."""
    cuts: ObjectRef
    """JSON: files with path, rows, bytes, sha256 (header included); see `CutList`."""
    removed: ObjectRef
    """`removed.csv`, bytes as published."""
    residents: ObjectRef | None
    """zstd of pairs of 8-byte integers: offset and length in the body of every piece of the residents' files, in their order; None on a
    day without residence."""
    residence_known: int
    residence_unknown: int
    """Rows without a UF of residence: known + unknown = rows."""
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
    identifying: dict[str, int] = field(default_factory=dict)
    """Column → values left out because they are or contain a CNS or CPF; they are in `blanked` as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishInputs:
    """Receipts of the stages before; together they are the account of the day."""

    extract: ExtractReceipt
    flatten: FlattenReceipt
    validate: ValidateReceipt
    split: SplitReceipt
    decision: Decision | None = None
    """Of a person, about a day that asks."""

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

    @property
    def news(self) -> dict[str, int]:
        """What the day had that our tables do not know: different profiles and elements."""
        counts = {
            "unknown_profiles": len(self.flatten.unknown_profiles),
            "unknown_elements": len(self.extract.unknown_elements),
        }
        return {name: count for name, count in counts.items() if count}


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishReceipt(Receipt):
    """What readers see now."""

    outcome: str
    """`published`, `unchanged` (same content, no new revision) or `superseded` (a newer extract is there, or the same made with a newer
    CNES)."""
    revision: int
    state: str
    content_id: str
    root_path: str
    """Key of `day.json` in the public bucket."""
    root_sha256: str
    """What this receipt confirms for `keys sign`; empty for a root that this run found there and no receipt confirms."""
    head_path: str
    doses: DoseAccount
    documents: DocumentAccount
    files: int
    bytes: int
    reason: str
    cnes: str = ""
    """Competência of the CNES snapshot that the content was made with."""
    news: dict[str, int] = field(default_factory=dict)
    """Number of different `unknown_profiles` and `unknown_elements`; nothing when our tables know all of the day."""
    diff: dict[str, int] = field(default_factory=dict)
    """Doses `added`, `changed` and `removed` by this revision; nothing where there was none to compare with."""
    decision: Decision | None = None
    """Why a day that asked was published."""
    signed_by: str = ""
    """Id of the key that signed the root; empty where the run had none."""
    withdrawn_ufs: list[str] = field(default_factory=list)
    """UFs of the day that a person withdrew: readers do not see them."""


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
