"""Month index and catalog: derived from the heads, moved by compare-and-swap, rebuilt from nothing at any time."""

from __future__ import annotations

import calendar

from imunizacao.contract import Contract
from imunizacao.errors import ContractViolation
from imunizacao.manifests import (
    CATALOG_KEY,
    Catalog,
    CatalogMonth,
    ContractVersion,
    Day,
    Head,
    Month,
    MonthDay,
    Operation,
    Root,
    Totals,
    decode,
    encode,
    head_key,
    month_key,
)
from imunizacao.storage import ObjectStore, swap


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


def update_catalog(public: ObjectStore, month: str, *, contract: Contract, ufs: list[tuple[str, str]]) -> Catalog:
    """Bring one month of the catalog up to date with its index. `ufs` are (code, initials) in code order."""

    def decide(body: bytes | None) -> tuple[bytes | None, Catalog]:
        months = {row.month: row for row in decode(Catalog, body, CATALOG_KEY).months} if body is not None else {}
        names = {month} if body is not None else _months_of(public) | {month}
        for name in names:
            stored = public.get_or_none(month_key(name))
            if stored is None:
                months.pop(name, None)
                continue
            index = decode(Month, stored.body, month_key(name))
            months[name] = CatalogMonth(
                month=name, path=month_key(name), days=len(index.days), rows=sum(row.rows for row in index.days)
            )
        rows = [months[name] for name in sorted(months)]
        catalog = Catalog(
            schema="imunizacao.catalog/1",
            operations=[
                Operation(
                    slug=f"imunizacao-total-{sg_uf.lower()}",
                    title=f"imunização-total-{sg_uf.lower()}",
                    uf=uf,
                    sg_uf=sg_uf,
                )
                for uf, sg_uf in ufs
            ],
            contract=ContractVersion(name=contract.name, version=contract.version),
            months=rows,
            totals=Totals(days=sum(row.days for row in rows), rows=sum(row.rows for row in rows)),
        )
        return encode(catalog), catalog

    return swap(public, CATALOG_KEY, decide)


def _row(public: ObjectStore, day: str) -> MonthDay | None:
    stored = public.get_or_none(head_key(day))
    if stored is None:
        return None
    head = decode(Head, stored.body, head_key(day))
    if head.current is None:
        return MonthDay(
            day=day, state=head.state, revision=head.revision, rows=0, path=head_key(day), root=None, ufs={}
        )
    root = public.get_or_none(head.current.path)
    if root is None:
        raise ContractViolation(
            f"{head_key(day)} points to {head.current.path}, which does not exist. See docs/runbook/damaged-manifest.md."
        )
    manifest = decode(Day, root.body, head.current.path)
    return MonthDay(
        day=day,
        state=head.state,
        revision=head.revision,
        rows=head.current.rows,
        path=head_key(day),
        root=Root(path=head.current.path, sha256=head.current.sha256),
        ufs={uf.uf: uf.rows for uf in manifest.files.ufs},
    )


def _days_of(month: str) -> list[str]:
    year, number = int(month[:4]), int(month[5:7])
    return [f"{month}-{day:02d}" for day in range(1, calendar.monthrange(year, number)[1] + 1)]


def _months_of(public: ObjectStore) -> set[str]:
    return {info.key.split("/")[2] for info in public.list("v1/months/")}
