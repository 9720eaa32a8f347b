"""A day of two persons in two UFs up to `split`, and the stage that writes it with identifiers, in memory."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import duckdb
import msgspec

from imunizacao.flatten import run_flatten
from imunizacao.manifests import Head, decode
from imunizacao.models import LandingManifest, LandingSlice, ObjectRef, PublishInputs, RunContext
from imunizacao.nominal import NominalReceipt, nominal_day
from imunizacao.settings import PseudonymSettings
from imunizacao.sql import Engine
from imunizacao.storage import file_ref, sha256_of
from tests.support.memory_bucket import MemoryBucket
from tests.support.small_day import NOTHING, SmallDay, make_inputs
from tests.unit.fhir_documents import (
    PSEUDONYM,
    Person,
    build_entry,
    flatten_lines,
    line_of,
    resources,
    write_part,
    write_references,
)

DAY = "2026-03-14"
SP, DF = "2077485", "0000123"
"""Establishments in São Paulo (35) and in the Distrito Federal (53)."""


def person(number: str) -> Person:
    """Somebody by CNS or CPF."""
    return Person(
        identifier=number, name="X", birth="1980-01-01", cep="70070000", professional="700000000000005", local_id=number
    )


PEOPLE = {SP: person("52998224725"), DF: person("700000000000005")}


class Made:
    """What `flatten` made of the documents, once for many days; who their persons are is read once from each landing."""

    def __init__(self, folder: Path) -> None:
        self.tables = write_references(folder)
        self.lines = [_line(number, cnes) for number, cnes in enumerate((SP, DF))]
        self.dose = flatten_lines(folder, self.tables, [self.lines]).folder / "dose.parquet"
        self.bad_keys = folder / "bad_keys.parquet"
        none = f"copy (select nu_parte, nu_linha, nu_dose from '{self.dose}' where false) to '{self.bad_keys}' (format parquet)"
        with duckdb.connect() as connection:
            connection.execute(none)
        self._identities: dict[bytes, bytes] = {}

    def flatten(self, duck: Engine, *, parts: list[Path], identity: Path, **more: Any) -> None:
        """In the place of `run_flatten`: it itself for a landing that is new."""
        mark = b"".join(part.read_bytes() for part in parts)
        if mark in self._identities:
            identity.write_bytes(self._identities[mark])
            return
        run_flatten(duck, parts=parts, identity=identity, **more)
        self._identities[mark] = identity.read_bytes()


def _line(number: int, cnes: str) -> bytes:
    made = build_entry(random.Random(number), identifier=f"doc-{number}", person=PEOPLE[cnes], cnes=cnes)
    resources(made)[1]["resource"] |= {"occurrenceDateTime": "2026-03-10", "lotNumber": "AB1"}
    return line_of(made)


class NominalDay:
    """Receipts of a day that `flatten` made, and the bucket of the managers."""

    def __init__(self, made: Made, day: SmallDay, nominal: MemoryBucket, folder: Path) -> None:
        self.made, self.day, self.work, self.nominal, self.folder = made, day, day.work, nominal, folder
        self.landing = self.land(made.lines)

    def land(self, lines: list[bytes]) -> ObjectRef:
        """Put a landing of one part into the work bucket; its manifest."""
        path = self.folder / "landing.ndjson.zst"
        write_part(path, lines)
        part = file_ref(self.work, f"v1/landing-{sha256_of(path.read_bytes())[:8]}", path, rows=len(lines))
        piece = LandingSlice(
            start=DAY,
            end=DAY,
            announced=len(lines),
            distinct=len(lines),
            lines=len(lines),
            rejected=0,
            parts=[part],
            page_log=NOTHING,
            rejects=None,
            pages=1,
            attempts=1,
            run_id="hand",
        )
        body = msgspec.json.encode(LandingManifest(day=DAY, slices=[piece]))
        key = f"v1/manifest-{sha256_of(body)[:8]}.json"
        self.work.put(key, body)
        return ObjectRef(key=key, sha256=sha256_of(body), bytes=len(body))

    def inputs(self, run_id: str = "run") -> tuple[RunContext, PublishInputs]:
        """What the stages before hand over."""
        context = self.day.context(run_id)
        places = enumerate(("355030", "530010"))
        rows = [{"co_documento": f"doc-{n}-i0b0", "co_municipio_estabelecimento": at} for n, at in places]
        self.day.hour += 1
        made = make_inputs(context, rows, self.work, hour=self.day.hour)
        dose = file_ref(self.work, f"v1/{run_id}/dose.parquet", self.made.dose, rows=2)
        keys = file_ref(self.work, f"v1/{run_id}/bad_keys.parquet", self.made.bad_keys, rows=0)
        return context, replace(
            made,
            extract=replace(made.extract, manifest=self.landing),
            flatten=replace(made.flatten, dose=dose, landing=self.landing),
            validate=replace(made.validate, bad_keys=keys),
        )

    def publish(self, run_id: str, *, reason: str = "") -> NominalReceipt | None:
        """A whole run: publish, count, and write the files with identifiers."""
        context, inputs = self.inputs(run_id)
        self.day.reconcile(context, self.day.publish(context, inputs, reason=reason))
        return self.write(context, inputs, reason=reason)

    def write(
        self, context: RunContext, inputs: PublishInputs, *, pseudonym: PseudonymSettings = PSEUDONYM, reason: str = ""
    ) -> NominalReceipt | None:
        """Run the stage."""
        with (
            mock.patch("imunizacao.nominal.load_references", return_value=dict(self.made.tables)),
            mock.patch("imunizacao.nominal.run_flatten", self.made.flatten),
        ):
            return nominal_day(
                context,
                inputs=inputs,
                references=mock.sentinel.references,
                pseudonym=pseudonym,
                work=self.work,
                public=self.day.public,
                nominal=self.nominal,
                engine=self.day.engine,
                now=self.day.now,
                reason=reason,
            )

    def head(self) -> Head:
        """The head of the bucket of the managers."""
        key = f"v1/days/{DAY}/head.json"
        return decode(Head, self.nominal.get(key).body, key)

    def files(self) -> Mapping[str, str]:
        """CSVs of UFs in the bucket: UF → text."""
        return {
            info.key.partition("/uf=")[2][:2]: self.nominal.get(info.key).body.decode()
            for info in self.nominal.list("v1/")
            if info.key.endswith(".csv") and "/uf=" in info.key
        }
