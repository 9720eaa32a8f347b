"""Days of a few doses, published without a mirror: receipts and body are made from rows, all that follows is the product."""

from __future__ import annotations

import csv
import hashlib
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from imunizacao.contract import load_contract
from imunizacao.models import (
    DocumentAccount,
    ExtractReceipt,
    FlattenReceipt,
    ObjectRef,
    PublishInputs,
    PublishReceipt,
    ReferenceVersions,
    RunContext,
    SplitReceipt,
    ValidateReceipt,
)
from imunizacao.paths import REFERENCE
from imunizacao.publish import publish_day
from imunizacao.reconcile import reconcile_day
from imunizacao.reference_day import ReferenceDay
from imunizacao.residents import cut_residents
from imunizacao.settings import EngineSettings
from imunizacao.signing import Signer
from imunizacao.split import content_id, csv_header, cut_body
from imunizacao.storage import ObjectStore, file_ref

CONTRACT = load_contract("dose")
SHA = "0" * 64
NOTHING = ObjectRef(key="nothing", sha256=SHA, bytes=0)
Row = Mapping[str, str]


def ufs() -> list[tuple[str, str]]:
    """Code and initials of the 27 UFs, in code order."""
    with (REFERENCE / "ibge" / "ibge_ufs.csv").open(encoding="utf-8", newline="") as table:
        return sorted((row["co_uf"], row["sg_uf"]) for row in csv.DictReader(table))


def dose(document: str, municipio: str, *, residence: str = "", **values: str) -> dict[str, str]:
    """A row with its key, a municipality of residence if it has one, and whatever else is given; other columns are empty."""
    row = {"co_documento": document, "co_municipio_estabelecimento": municipio, **values}
    if residence:
        row |= {"co_municipio_paciente": residence, "sg_uf_paciente": dict(ufs())[residence[:2]]}
        row |= {"st_residente_uf": "S" if residence[:2] == municipio[:2] else "N"}
    return row


def csv_line(row: Row, names: Sequence[str]) -> str:
    """A row as the files have it."""
    return ";".join(f'"{quoted}"' if (quoted := row.get(name, "").replace('"', '""')) else "" for name in names) + "\n"


def make_inputs(
    context: RunContext,
    rows: Iterable[Row],
    work: ObjectStore,
    *,
    hour: int = 0,
    names: Sequence[str] = CONTRACT.names,
    removed: Sequence[str] = (),
) -> PublishInputs:
    """What the stages before would hand to publish for these rows; `hour` moves the instant of the extract on."""
    removed_names = load_contract("removed").names
    ordered = sorted(rows, key=lambda row: (row["co_municipio_estabelecimento"], row["co_documento"]))
    places = Counter(row["co_municipio_estabelecimento"] for row in ordered)
    prefix = context.prefix("split")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        body, packed, cut_file, gone = (folder / name for name in ("body.csv", "body.zst", "cuts.json", "removed.csv"))
        body.write_text("".join(csv_line(row, names) for row in ordered), encoding="utf-8", newline="")
        header = ";".join(f'"{name}"' for name in names) + "\n"
        starts: array[int] = array("Q")
        cuts = cut_body(
            body,
            packed=packed,
            day=str(context.day),
            header=header,
            ufs=ufs(),
            places=[(place[:2], place, count) for place, count in sorted(places.items())],
            starts=starts,
        )
        residence = [(row.get("co_municipio_paciente", ""), row["co_documento"], n) for n, row in enumerate(ordered)]
        living = sorted(one for one in residence if one[0])
        if living:
            pieces = folder / "residents.zst"
            residents = cut_residents(
                body,
                starts=starts,
                runs=[[(place[:2], number, 1) for place, _, number in living]],
                pieces=pieces,
                day=str(context.day),
                header=header,
                ufs=ufs(),
                expected=Counter(place[:2] for place, _, _ in living),
            )
            cuts = replace(cuts, residents=residents)
        cut_file.write_bytes(msgspec.json.encode(cuts))
        text = csv_header(load_contract("removed")) + "".join(
            csv_line(
                {
                    "co_documento": document,
                    "co_motivo": "deleted",
                    "dt_entrada_rnds": f"{context.day}T10:00:00.000-03:00",
                },
                removed_names,
            )
            for document in sorted(removed)
        )
        gone.write_text(text, encoding="utf-8", newline="")
        files = [(file.path, file.sha256) for file in (*cuts.files, *cuts.residents)]
        files.append(("removed.csv", hashlib.sha256(gone.read_bytes()).hexdigest()))
        common = {
            "day": str(context.day),
            "run_id": context.run_id,
            "code_version": context.code_version,
            "seconds": 0.0,
        }
        count = len(ordered)
        split = SplitReceipt(
            stage="split",
            fingerprint=content_id(files),
            **common,
            body=file_ref(work, prefix + "body.csv.zst", packed, rows=count),
            cuts=file_ref(work, prefix + "cuts.json", cut_file),
            removed=file_ref(work, prefix + "removed.csv", gone, rows=len(removed)),
            residents=file_ref(work, prefix + "residents.zst", pieces) if living else None,
            residence_known=len(living),
            residence_unknown=count - len(living),
            content_id=content_id(files),
            rows=count,
            ufs=27,
            municipalities=len(places),
            removals=len(removed),
            neutralised={},
            blanked={},
            completeness={name: sum(1 for row in ordered if row.get(name)) for name in names},
        )
    documents = DocumentAccount(fetched=count, unique=count, duplicates=0)
    return PublishInputs(
        extract=ExtractReceipt(
            stage="extract",
            fingerprint=SHA,
            **common,
            manifest=NOTHING,
            announced=count,
            fetched=count,
            rejected=0,
            slices=1,
            slices_reused=0,
            pages=1,
            requests=1,
            retries=0,
            bytes_received=0,
            extracted_at=datetime(2026, 3, 16, hour, tzinfo=UTC).isoformat(),
            landing_sha256=SHA,
        ),
        flatten=FlattenReceipt(
            stage="flatten",
            fingerprint=SHA,
            **common,
            dose=NOTHING,
            quarantine=NOTHING,
            removed=NOTHING,
            documents=documents,
            doses=count,
            candidates=count,
            quarantined=0,
            superseded=0,
            removed_doses=0,
            slow_path=0,
            pseudonym_key_id="test",
            references=ReferenceVersions(cnes_competencia="202602", cnes_sha256=SHA, ibge_sha256=SHA, pni_sha256=SHA),
        ),
        validate=ValidateReceipt(
            stage="validate",
            fingerprint=SHA,
            **common,
            rules=[],
            suite_sha256=SHA,
            quarantine=NOTHING,
            bad_keys=NOTHING,
            checked=count,
            quarantined_by_rules=0,
            quarantined=0,
            quarantined_by_reason={},
            quarantined_by_uf={},
            publish=True,
            held_because=[],
            warnings=[],
            docs_key="docs",
        ),
        split=split,
    )


class SmallDay:
    """One day in two buckets, published again and again; every publication is an hour after the one before."""

    def __init__(self, day: str, work: ObjectStore, public: ObjectStore, folder: Path) -> None:
        self.day, self.work, self.public, self.engine = day, work, public, EngineSettings(scratch_dir=folder)
        self.hour = 0
        self.signer: Signer | None = None

    def context(self, run_id: str) -> RunContext:
        """A run of the day."""
        return RunContext.create(day=ReferenceDay.parse(self.day), run_id=run_id, code_version="test")

    def inputs(
        self, rows: Iterable[Row], *, names: Sequence[str] = CONTRACT.names, removed: Sequence[str] = ()
    ) -> tuple[RunContext, PublishInputs]:
        """The next run with these rows."""
        self.hour += 1
        context = self.context(f"run-{self.hour}")
        return context, make_inputs(context, rows, self.work, hour=self.hour, names=names, removed=removed)

    def publish(
        self, context: RunContext, inputs: PublishInputs, public: ObjectStore | None = None, *, reason: str = ""
    ) -> PublishReceipt:
        """Publish, without counting again."""
        return publish_day(
            context,
            inputs=inputs,
            work=self.work,
            public=public or self.public,
            engine=self.engine,
            now=self.now,
            reason=reason,
            signer=self.signer,
        )

    def reconcile(
        self,
        context: RunContext,
        published: PublishReceipt,
        recorded: Mapping[str, Mapping[str, int | float]] | None = None,
    ) -> None:
        """Count again; a gap is a `ContractViolation`."""
        reconcile_day(context, published=published, public=self.public, work=self.work, now=self.now, recorded=recorded)

    def revise(
        self, rows: Iterable[Row], *, names: Sequence[str] = CONTRACT.names, removed: Sequence[str] = ()
    ) -> PublishReceipt:
        """Publish these rows and count them again."""
        context, inputs = self.inputs(rows, names=names, removed=removed)
        published = self.publish(context, inputs)
        self.reconcile(context, published)
        return published

    def now(self) -> datetime:
        """The clock of the tests."""
        return datetime(2026, 3, 16, min(self.hour, 23), 30, tzinfo=UTC)

    def get(self, key: str) -> bytes:
        """A plain GET, as a reader does it."""
        return self.public.get(key).body
