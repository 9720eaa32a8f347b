"""The reference tables of a run: exported to the work bucket under keys that name their content, and read back from there."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self, cast

import msgspec

from imunizacao.controle import Connection, Snapshot, record_snapshot, write_snapshot
from imunizacao.errors import ContractViolation, StorageUnavailable
from imunizacao.events import log_event
from imunizacao.models import ObjectRef, ReferenceVersions
from imunizacao.paths import SQL
from imunizacao.reference.choice import NEWEST, OF_THE_DAY, competencia_of, require_choice, shipped_cnes, stored_cnes
from imunizacao.reference.cnes import guard_cnes, import_rules, read_cnes
from imunizacao.reference.common import content_id, files_sha256, scratch
from imunizacao.reference.ibge import IbgeTables, ibge_in_use, require_ibge
from imunizacao.reference.pni import PniTables, pni_in_use, require_pni
from imunizacao.reference_day import ReferenceDay
from imunizacao.settings import EngineSettings
from imunizacao.sql import Engine, open_engine
from imunizacao.storage import ObjectStore, PreconditionLost, file_sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceSet:
    """The reference tables of a run: which versions, and where their Parquet files are in the work bucket."""

    versions: ReferenceVersions
    cnes: ObjectRef
    municipios: ObjectRef
    ufs: ObjectRef
    pni: dict[str, ObjectRef]
    """Table name without `pni_` → file."""

    def to_json(self) -> str:
        """Text for XCom: locations, counts and hashes only."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read what `to_json` wrote; anything else is a `ContractViolation`."""
        try:
            return msgspec.json.decode(text, type=cls)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            raise ContractViolation(
                f"A set of references cannot be read ({error}). Clear `resolve_day` and run it again."
            ) from error


def export_references(
    work: ObjectStore,
    connection: Connection | None = None,
    *,
    cnes: str = NEWEST,
    day: ReferenceDay | None = None,
    source: Path | None = None,
    engine: EngineSettings | None = None,
) -> ReferenceSet:
    """Put the reference tables of a run into the work bucket, or find them there, and tell where they are.

    With a connection the tables are the stored snapshots: of the CNES the one that `cnes` names (`newest`, a competência, or
    `of-the-day`: the one in force on `day`), of the IBGE and of each PNI table the newest one (`of-the-day`: in force
    on `day`), and the project's own where none is. Without a connection the CNES is read from `source`, by default a file in `include/reference/cnes`. Keys
    name the content and objects are only ever created: an export that is there is used as it is, and two runs at once agree. A
    competência that is not to be had is a `ConfigurationError`; tables that are not whole are a `ContractViolation`.
    """
    require_choice(cnes)
    with scratch(engine) as (settings, folder):
        in_force = day.value if day is not None and cnes == OF_THE_DAY else None
        ibge, pni = ibge_in_use(connection, folder, day=in_force), pni_in_use(connection, folder, day=in_force)
        rules, form = import_rules(ibge), _export_rules()
        if connection is not None:
            snapshot = stored_cnes(connection, cnes, day)
        else:
            source = source or shipped_cnes(cnes, day)
            snapshot = Snapshot(
                kind="cnes",
                version=competencia_of(source, cnes),
                sha256=file_sha256(source),
                import_rules=rules,
                origin=source.name,
                rows=0,
                rows_active=0,
            )

        def make_cnes(duck: Engine) -> dict[str, Path]:
            if connection is not None:
                rows = folder / "cnes_stored.csv"
                write_snapshot(connection, snapshot, rows)
                duck.run("reference/51_int_cnes_stored", source=str(rows))
            else:
                file = cast(Path, source)
                found = read_cnes(duck, file, "", competencia=snapshot.version, ibge=ibge, folder=folder)
                guard_cnes(found, None, ibge, force=False)
            path = folder / "cnes.parquet"
            duck.run("reference/60_cnes", destination=str(path))
            return {"cnes": path}

        def make_ibge(duck: Engine) -> dict[str, Path]:
            if not ibge.version:
                require_ibge()
            made = {"municipios": folder / "municipios.parquet", "ufs": folder / "ufs.parquet"}
            duck.run("reference/70_municipios", source=str(ibge.municipios), destination=str(made["municipios"]))
            duck.run("reference/71_ufs", source=str(ibge.ufs), destination=str(made["ufs"]))
            return made

        def make_pni(duck: Engine) -> dict[str, Path]:
            require_pni()
            made = {}
            for name, path in pni.files.items():
                made[name] = folder / f"pni_{name}.parquet"
                duck.run("reference/80_pni", source=str(path), destination=str(made[name]))
            return made

        key = content_id(snapshot.sha256, snapshot.import_rules, form)
        export = _Exporter(work=work, settings=settings, folder=folder)
        cnes_refs = export.run(f"v1/references/cnes/{snapshot.version}-{key}/", make_cnes)
        ibge_refs = export.run(f"v1/references/ibge/{content_id(ibge.sha256, form)}/", make_ibge)
        pni_refs = export.run(f"v1/references/pni/{content_id(pni.sha256, form)}/", make_pni)
        if connection is not None:
            _note_small_tables(connection, ibge, pni, form, ibge_refs, pni_refs)
            if snapshot.import_rules != rules:
                log_event(
                    "reference.cnes_of_other_rules",
                    level=logging.WARNING,
                    competencia=snapshot.version,
                    sha256=snapshot.sha256[:12],
                )
    references = ReferenceSet(
        versions=ReferenceVersions(
            cnes_competencia=snapshot.version,
            cnes_sha256=snapshot.sha256,
            ibge_sha256=ibge.sha256,
            pni_sha256=pni.sha256,
            cnes_choice=cnes,
            ibge_version=ibge.version,
            pni_version=pni.version,
        ),
        cnes=cnes_refs["cnes"],
        municipios=ibge_refs["municipios"],
        ufs=ibge_refs["ufs"],
        pni=pni_refs,
    )
    log_event(
        "reference.exported",
        cnes=snapshot.version,
        choice=cnes,
        rows=references.cnes.rows,
        sha256=snapshot.sha256[:12],
        ibge=ibge.version or "project",
        pni=pni.version or "project",
    )
    return references


def load_references(work: ObjectStore, refs: ReferenceSet, folder: Path) -> dict[str, Path]:
    """Download the tables of a run into `folder/references` and return name → Parquet file.

    Names: `cnes`, `municipios`, `ufs` and the PNI tables without `pni_`. Other bytes than those that `refs` names are a
    `ContractViolation`.
    """
    target = folder / "references"
    target.mkdir(exist_ok=True)
    tables = {**refs.pni, "cnes": refs.cnes, "municipios": refs.municipios, "ufs": refs.ufs}
    paths = {}
    for name, ref in tables.items():
        paths[name] = target / f"{name}.parquet"
        work.download(ref.key, paths[name], sha256=ref.sha256)
    return paths


# Exporting to the work bucket


@dataclass(frozen=True, slots=True, kw_only=True)
class _Exported:
    """Index of an export, written after its objects: while it is missing, the export is not finished."""

    objects: dict[str, ObjectRef]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Exporter:
    work: ObjectStore
    settings: EngineSettings
    folder: Path

    def run(self, prefix: str, make: Callable[[Engine], dict[str, Path]]) -> dict[str, ObjectRef]:
        """The objects under `prefix`: those that are there, or else made now."""
        there = self._finished(prefix)
        if there is not None:
            return there
        with open_engine(self.settings, self.folder) as duck:
            made = make(duck)
            rows = {name: int(duck.row("reference/90_rows", source=str(path))[0]) for name, path in made.items()}
        objects = {
            name: self._create(f"{prefix}{name}.parquet", path, rows=rows[name]) for name, path in sorted(made.items())
        }
        index = msgspec.json.encode(_Exported(objects=objects))
        self.work.put(f"{prefix}index.json", index, content_type="application/json")
        return objects

    def _finished(self, prefix: str) -> dict[str, ObjectRef] | None:
        stored = self.work.get_or_none(f"{prefix}index.json")
        if stored is None:
            return None
        try:
            objects = msgspec.json.decode(stored.body, type=_Exported).objects
        except (msgspec.DecodeError, msgspec.ValidationError):
            return None  # written by another version of the code: its objects are checked and indexed again
        sizes = {info.key: info.bytes for info in self.work.list(prefix)}
        return objects if all(sizes.get(ref.key) == ref.bytes for ref in objects.values()) else None

    def _create(self, key: str, path: Path, *, rows: int) -> ObjectRef:
        sha256 = file_sha256(path)
        try:
            with path.open("rb") as body:
                self.work.put(key, body, sha256=sha256, only_if_absent=True)
        except PreconditionLost:
            return self._first(key, sha256, rows)
        return ObjectRef(key=key, sha256=sha256, bytes=path.stat().st_size, rows=rows)

    def _first(self, key: str, sha256: str, rows: int) -> ObjectRef:
        """The object that was there first (another run, or our own write whose answer was lost), read back whole."""
        info = self.work.info(key)
        if info is None:
            raise StorageUnavailable(f"Object {key} was refused as existing and is not there. Run the task again.")
        self.work.download(key, self.folder / "there_first", sha256=info.sha256 or sha256)
        return ObjectRef(key=key, sha256=info.sha256 or sha256, bytes=info.bytes, rows=rows)


def _note_small_tables(
    connection: Connection,
    ibge: IbgeTables,
    pni: PniTables,
    rules: str,
    ibge_refs: Mapping[str, ObjectRef],
    pni_refs: Mapping[str, ObjectRef],
) -> None:
    """Keep in PostgreSQL which versions of the project's own tables, and which PNI tables together, days were made with."""
    municipalities, codes = ibge_refs["municipios"].rows, sum(ref.rows for ref in pni_refs.values())
    noted = [
        Snapshot(
            kind="pni",
            version=pni.sha256[:12],
            sha256=pni.sha256,
            import_rules=rules,
            origin=f"include/reference/pni; {pni.version}" if pni.version else "include/reference/pni",
            rows=codes,
            rows_active=codes,
        )
    ]
    if not ibge.version:
        noted.append(
            Snapshot(
                kind="ibge",
                version=ibge.sha256[:12],
                sha256=ibge.sha256,
                import_rules=rules,
                origin="include/reference/ibge",
                rows=municipalities,
                rows_active=municipalities,
            )
        )
    for snapshot in noted:
        record_snapshot(connection, snapshot)


def _export_rules() -> str:
    """sha256 over the SQL that makes the exported tables: other columns are another export."""
    return files_sha256([path for path in sorted((SQL / "reference").glob("*.sql")) if path.name > "50"])
