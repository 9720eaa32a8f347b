"""Month index and catalog: derived from the heads, moved by compare-and-swap, rebuilt from nothing at any time."""

from __future__ import annotations

import calendar

from imunizacao.contract import Contract
from imunizacao.errors import ContractViolation
from imunizacao.manifests import (
    CATALOG_KEY,
    KEYS_KEY,
    Catalog,
    CatalogMonth,
    ContractVersion,
    Day,
    DictionaryFile,
    Head,
    Month,
    MonthDay,
    Operation,
    Root,
    Totals,
    bulk_key,
    decode,
    encode,
    head_key,
    month_key,
)
from imunizacao.storage import ObjectStore, swap

_VIEWS = (
    ("total", "Doses aplicadas em", ""),
    ("residentes", "Doses de residentes em", ", onde quer que aplicadas"),
)
"""Operations by UF. Residents are offered once some day has doses with a residence."""


def update_month(public: ObjectStore, day: str) -> Month:
    """Bring the row of one day in its month index up to date with the day's head; an index that is missing is built anew.

    The head is read after the index, inside the swap: a head that moves meanwhile makes the swap fail and read again, so the
    index never goes back behind a head.
    """
    month = day[:7]
    key = month_key(month)

    def decide(body: bytes | None) -> tuple[bytes | None, Month]:
        if body is None:
            rows = [row for name in _days_of(month) if (row := _row(public, name)) is not None]
        else:
            kept = decode(Month, body, key)
            rows = [row for row in kept.days if row.day != day]
            changed = _row(public, day)
            rows += [changed] if changed is not None else []
        index = Month(schema="imunizacao.month/1", month=month, days=sorted(rows, key=lambda row: row.day))
        return encode(index), index

    return swap(public, key, decide)


def update_catalog(
    public: ObjectStore, month: str, *, contract: Contract, ufs: list[tuple[str, str]], dictionary: DictionaryFile
) -> Catalog:
    """Bring one month of the catalog up to date with its index. `ufs` are (code, initials) in code order."""
    version = ContractVersion(name=contract.name, version=contract.version)

    def decide(body: bytes | None) -> tuple[bytes | None, Catalog]:
        stored = decode(Catalog, body, CATALOG_KEY) if body is not None else None
        months = _catalog_months(public, stored, month)
        catalog = _catalog(months, contract=version, ufs=ufs, dictionary=dictionary, keys=_if_there(public, KEYS_KEY))
        return encode(catalog), catalog

    return swap(public, CATALOG_KEY, decide)


def follow_in_indexes(public: ObjectStore, day: str) -> None:
    """Bring month index and catalog up to date with a head that was moved by something else than a publication.

    What the catalog offers stays; a catalog that does not exist is left to the next publication.
    """
    month = update_month(public, day).month

    def decide(body: bytes | None) -> tuple[bytes | None, None]:
        if body is None:
            return None, None
        stored = decode(Catalog, body, CATALOG_KEY)
        ufs = sorted({(operation.uf, operation.sg_uf) for operation in stored.operations})
        months = _catalog_months(public, stored, month)
        catalog = _catalog(
            months, contract=stored.contract, ufs=ufs, dictionary=stored.dictionary, keys=_if_there(public, KEYS_KEY)
        )
        return encode(catalog), None

    swap(public, CATALOG_KEY, decide)


def _catalog_months(public: ObjectStore, stored: Catalog | None, month: str) -> list[CatalogMonth]:
    """The months of a catalog, one of them read again from its index; all of them where there was no catalog."""
    months = {row.month: row for row in stored.months} if stored is not None else {}
    for name in {month} if stored is not None else _months_of(public) | {month}:
        found = public.get_or_none(month_key(name))
        if found is None:
            months.pop(name, None)
            continue
        index = decode(Month, found.body, month_key(name))
        months[name] = CatalogMonth(
            month=name,
            path=month_key(name),
            days=len(index.days),
            revisions=sum(row.revision for row in index.days),
            rows=sum(row.rows for row in index.days),
            residents=sum(sum((row.residents or {}).values()) for row in index.days),
            bulk_publish=_if_there(public, bulk_key(name)),
        )
    return [months[name] for name in sorted(months)]


def _catalog(
    months: list[CatalogMonth],
    *,
    contract: ContractVersion,
    ufs: list[tuple[str, str]],
    dictionary: DictionaryFile | None,
    keys: str | None,
) -> Catalog:
    residents = sum(row.residents for row in months)
    return Catalog(
        schema="imunizacao.catalog/1",
        operations=[
            Operation(
                slug=f"imunizacao-{view}-{sg_uf.lower()}",
                title=f"imunização-{view}-{sg_uf.lower()}",
                uf=uf,
                sg_uf=sg_uf,
                description=f"{what} {sg_uf}{where}.",
            )
            for view, what, where in (_VIEWS if residents else _VIEWS[:1])
            for uf, sg_uf in ufs
        ],
        contract=contract,
        dictionary=dictionary,
        months=months,
        totals=Totals(days=sum(row.days for row in months), rows=sum(row.rows for row in months), residents=residents),
        keys=keys,
    )


def _row(public: ObjectStore, day: str) -> MonthDay | None:
    stored = public.get_or_none(head_key(day))
    if stored is None:
        return None
    head = decode(Head, stored.body, head_key(day))
    if head.current is None:
        return MonthDay(
            day=day,
            state=head.state,
            revision=head.revision,
            rows=0,
            path=head_key(day),
            root=None,
            ufs={},
            residents={},
        )
    root = public.get_or_none(head.current.path)
    if root is None:
        raise ContractViolation(
            f"{head_key(day)} points to {head.current.path}, which does not exist. See docs/runbook/damaged-manifest.md."
        )
    manifest = decode(Day, root.body, head.current.path)
    ufs = [uf for uf in manifest.files.ufs if uf.uf not in head.withdrawn_ufs]
    return MonthDay(
        day=day,
        state=head.state,
        revision=head.revision,
        rows=sum(uf.rows for uf in ufs),
        path=head_key(day),
        root=Root(path=head.current.path, sha256=head.current.sha256),
        ufs={uf.uf: uf.rows for uf in ufs},
        residents={uf.uf: uf.residents or 0 for uf in ufs} if _has_residents(manifest) else {},
        withdrawn_ufs=sorted(head.withdrawn_ufs) or None,
    )


def _has_residents(day: Day) -> bool:
    return day.residence is not None and day.residence.known > 0


def _if_there(public: ObjectStore, key: str) -> str | None:
    return key if public.info(key) is not None else None


def _days_of(month: str) -> list[str]:
    year, number = int(month[:4]), int(month[5:7])
    return [f"{month}-{day:02d}" for day in range(1, calendar.monthrange(year, number)[1] + 1)]


def _months_of(public: ObjectStore) -> set[str]:
    return {info.key.split("/")[2] for info in public.list("v1/months/")}
