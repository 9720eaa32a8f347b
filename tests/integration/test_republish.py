"""A clinic moved between two CNES snapshots: which published days it touches, and what making them again changes."""

from __future__ import annotations

import csv
import io
import json
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import duckdb
import pytest

from imunizacao import pipeline, republish
from imunizacao.cli import main
from imunizacao.controle import connect, migrate
from imunizacao.errors import ConfigurationError
from imunizacao.models import RunContext
from imunizacao.reference import Affected, import_cnes, places_key
from imunizacao.reference.places import published_contents
from imunizacao.reference_day import ReferenceDay
from imunizacao.settings import Settings
from imunizacao.storage import ObjectStore
from imunizacao_local.mirror import MirrorServer, MirrorSettings
from imunizacao_local.ports import free_ports
from tests.integration.conftest import ROOT
from tests.mirror.cnes import SNAPSHOT
from tests.support.reader import read_day

pytestmark = pytest.mark.servers
DAYS = ("2026-03-12", "2026-03-13", "2026-03-14")
BEFORE, AFTER = "202602", "202603"
SEED, DOCUMENTS = 9, 120
"""Of the simulator, per day: few, and yet an establishment has doses on the first and the last day and none on the second."""


@pytest.fixture(scope="module")
def mirror() -> Iterator[MirrorServer]:
    """The simulator with small days."""
    with tempfile.TemporaryDirectory(prefix="imunizacao-mirror-") as folder:
        settings = MirrorSettings(seed=SEED, docs_per_day=DOCUMENTS, auth="none")
        with MirrorServer(state_dir=Path(folder), root=ROOT, port=free_ports(1)[0], settings=settings) as server:
            yield server


def moved_snapshot(clinic: str, old_place: str = "") -> tuple[bytes, str]:
    """The snapshot of the project a month later, with one clinic in another municipality; the file and that municipality."""
    with zipfile.ZipFile(SNAPSHOT) as archive:
        (name,) = archive.namelist()
        reader = csv.DictReader(io.StringIO(archive.read(name).decode("latin-1"), newline=""), delimiter=";")
        lines = list(reader)
    new_place = "355030" if not old_place.startswith("35") else "330455"
    for line in lines:
        if line["CO_CNES"] == clinic:
            line["CO_UNIDADE"] = new_place + clinic
            line["CO_MUNICIPIO_GESTOR"] = new_place
    text = io.StringIO()
    writer = csv.DictWriter(
        text, list(reader.fieldnames or []), delimiter=";", quoting=csv.QUOTE_ALL, lineterminator="\r\n"
    )
    writer.writeheader()
    writer.writerows(lines)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"tbEstabelecimento{AFTER}.csv", text.getvalue().encode("latin-1"))
    return out.getvalue(), new_place


def _index(work: ObjectStore, public: ObjectStore, folder: Path) -> dict[str, dict[str, tuple[str | None, int]]]:
    """Day → CNES → (municipality, doses), as the index of what is published says."""
    found: dict[str, dict[str, tuple[str | None, int]]] = {}
    for day, content in published_contents(public).items():
        path = folder / f"{day}.parquet"
        work.download(places_key(day, content), path)
        rows = duckdb.execute(
            "select co_cnes, co_municipio, qt_doses from read_parquet($path)", {"path": str(path)}
        ).fetchall()
        found[day] = {cnes: (municipio, doses) for cnes, municipio, doses in rows}
    return found


def _published(public: ObjectStore, day: str) -> Counter[tuple[str, str]]:
    """Doses by (CNES, municipality) that a reader counts in the files of the day."""
    rows = read_day(lambda key: public.get(key).body, day).rows
    return Counter((row["co_cnes_estabelecimento"], row["co_municipio_estabelecimento"]) for row in rows)


def _head(public: ObjectStore, day: str) -> Mapping[str, Any]:
    head: Mapping[str, Any] = json.loads(public.get(f"v1/days/{day}/head.json").body)
    return head


def _find(services: pipeline.Services, **options: Any) -> Affected:
    return republish.find_affected(services, earlier=BEFORE, later=AFTER, **options)


def test_a_clinic_that_moved_is_found_and_its_days_are_published_again(
    settings: Settings,
    services_with_controle: pipeline.Services,
    controle_dsn: str,
    mirror: MirrorServer,
    work: ObjectStore,
    public: ObjectStore,
    tmp_path: Path,
) -> None:
    services = services_with_controle
    with connect(controle_dsn) as connection:
        migrate(connection)
        import_cnes(SNAPSHOT, connection)
    for day in DAYS:
        context = RunContext.create(day=ReferenceDay.parse(day), run_id="first", code_version="test")
        pipeline.run_day(context, services)
    with pytest.raises(ConfigurationError, match=f"no CNES snapshot {AFTER}.*import-cnes"):
        _find(services)

    # The index tells what a reader counts.
    index = _index(work, public, tmp_path)
    for day in DAYS:
        told = Counter({(cnes, place): doses for cnes, (place, doses) in index[day].items() if place is not None})
        assert told == _published(public, day)

    # A clinic with doses on the first and the last day, and an unknown one with doses in quarantine, whose numbers stay the same.
    first, middle, last = (index[day] for day in DAYS)
    clinic = min(cnes for cnes in first.keys() & last.keys() - middle.keys() if first[cnes][0] is not None)
    old_place = str(first[clinic][0])
    snapshot, new_place = moved_snapshot(clinic, old_place)
    with connect(controle_dsn) as connection:
        found = import_cnes(snapshot, connection)
    assert found.difference is not None
    assert (found.difference.moved, found.difference.total) == (1, 1)

    # Exactly the two days.
    affected = _find(services)
    assert [(day.day, day.establishments, day.doses) for day in affected.days] == [
        (DAYS[0], 1, first[clinic][1]),
        (DAYS[2], 1, last[clinic][1]),
    ]
    assert (affected.checked, affected.without_index) == (3, [])
    assert [day.day for day in _find(services, first=ReferenceDay.parse(DAYS[1]).value).days] == [DAYS[2]]
    assert _find(services, changes=["added", "gone", "closed"]).days == []
    with pytest.raises(ConfigurationError, match="vanished cannot be looked for"):
        _find(services, changes=["vanished"])

    # The command only lists, unless told to run.
    env = {
        "IMUNIZACAO_MIRROR_URL": mirror.base_url,
        "IMUNIZACAO_S3_ENDPOINT": settings.storage.endpoint_url,
        "IMUNIZACAO_S3_ACCESS_KEY": settings.storage.access_key,
        "IMUNIZACAO_S3_SECRET_KEY": settings.storage.secret_key,
        "IMUNIZACAO_WORK_BUCKET": settings.storage.work_bucket,
        "IMUNIZACAO_PUBLIC_BUCKET": settings.storage.public_bucket,
        "IMUNIZACAO_PSEUDONYM_KEY": settings.pseudonym.key.decode(),
        "IMUNIZACAO_PSEUDONYM_KEY_ID": settings.pseudonym.key_id,
        "IMUNIZACAO_CONTROLE_DSN": controle_dsn,
        "IMUNIZACAO_SCRATCH_DIR": str(tmp_path),
        "IMUNIZACAO_EXPECTATIONS": str(settings.expectations),
    }
    heads = {day: public.get(f"v1/days/{day}/head.json").body for day in DAYS}
    published = {day: _published(public, day) for day in DAYS}
    out = io.StringIO()
    assert main(["--plain", "reference", "republish", "--from", BEFORE, "--to", AFTER], env=env, out=out) == 0
    assert "2 of 3 published days are affected" in out.getvalue()
    assert "Nothing was done" in out.getvalue()
    assert {day: public.get(f"v1/days/{day}/head.json").body for day in DAYS} == heads

    out = io.StringIO()
    assert main(["--plain", "reference", "republish", "--from", BEFORE, "--to", AFTER, "--run"], env=env, out=out) == 0
    for day in (DAYS[0], DAYS[2]):
        assert f"{day}: rev 2 · " in out.getvalue()
        head = _head(public, day)
        assert (head["revision"], [entry["reason"] for entry in head["history"]]) == (2, ["initial", "references"])
        assert [entry["references"]["cnes"]["competencia"] for entry in head["history"]] == [BEFORE, AFTER]
        doses = published[day].pop((clinic, old_place))
        diff = head["history"][1]["diff"]
        assert (diff["added"], diff["changed"], diff["removed"]) == (0, doses, 0), "the same doses, elsewhere"
        moves = {uf: (counts.get("movedIn", 0), counts.get("movedOut", 0)) for uf, counts in diff["ufs"].items()}
        assert moves == {new_place[:2]: (doses, 0), old_place[:2]: (0, doses)}
        published[day][(clinic, new_place)] = doses
        assert _published(public, day) == published[day], "only the rows of the clinic went to another file"
    assert public.get(f"v1/days/{DAYS[1]}/head.json").body == heads[DAYS[1]], "the third day stays as it was"
    assert _find(services).days == [], "nothing is left to do"
