"""Invented people planted in every place of documents, through the whole system: nothing of them outside landing and quarantine.

One small day, made twice: the second time with a new key of the pseudonyms and the nominal profile on. The same search finds the people
where they belong, so it does not look in vain.
"""

from __future__ import annotations

import io
import json
import logging
import random
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb
import pytest

from imunizacao import pipeline
from imunizacao.cli import main
from imunizacao.controle import connect, migrate
from imunizacao.models import RunContext
from imunizacao.paths import REFERENCE
from imunizacao.reference import import_cnes
from imunizacao.settings import (
    EngineSettings,
    NominalSettings,
    Settings,
    StorageSettings,
    pseudonym_settings,
    signing_settings,
)
from imunizacao.signing import new_key
from imunizacao.storage import ObjectStore, open_nominal_store
from imunizacao_local.seaweed import SeaweedServer
from tests.integration.extract_support import DAY, LATER, NOW, Document, read_zstd, running_mirror
from tests.support.reader import read_day
from tests.unit.fhir_documents import Json, Person, build_entry, line_of, resources
from tests.unit.test_macros import cns_from_pis, cpf_digits

pytestmark = pytest.mark.servers
CNES = "6751714"
"""An establishment of the CNES file in the project."""
DOCUMENTS = 59
OLD = "the key before, for tests only, thirty-two characters"
NEW = "the new key, for tests only, thirty-two characters"
ODD_PLACES = (
    "lot",
    "maker",
    "extension",
    "unknown element",
    "local id",
    "professional",
    "patient id",
    "document id",
    "replaced id",
    "vaccine",
    "part of the document id",
)


def _cpf(number: int) -> str:
    return cpf_digits(f"{731_900_000 + number:09d}")


def _cns(number: int) -> str:
    return cns_from_pis(f"{17_319_000_000 + number:011d}")


def _person(number: int) -> Person:
    return Person(
        identifier=_cpf(number) if number % 2 else _cns(number),
        name=f"Canaria Sicrana {number:03d} Zzyzx",
        birth=f"19{31 + number % 60}-07-{1 + number % 28:02d}",
        cep=f"69{number:03d}731",
        professional=_cns(500 + number),
        local_id=f"local-{number}",
    )


def _plant(made: Json, place: str, canary: str) -> None:
    """Write `canary` (a CPF) into one place of a document."""
    bundle, composition, dose = made["resource"], resources(made)[0]["resource"], resources(made)[1]["resource"]
    if place == "lot":
        dose["lotNumber"] = f"L {canary[:3]}.{canary[3:6]}.{canary[6:9]}-{canary[9:]}"
    elif place == "maker":
        dose["manufacturer"] = {"display": f"JOSE CANARIO {canary}", "reference": f"Organization/{canary}"}
    elif place == "extension":
        dose["extension"].append({"url": f"http://example.org/{canary}", "valueString": canary})
    elif place == "unknown element":
        composition[f"x{canary}"] = bundle["note"] = {"text": canary, canary: canary}
    elif place == "local id":
        bundle["identifier"]["value"] = f"3112009-{canary}"
    elif place == "professional":
        dose["performer"] = [{"actor": {"reference": f"Practitioner/{canary}", "display": canary}}]
    elif place == "patient id":
        resources(made)[-1]["resource"]["id"] = canary
    elif "document id" in place:
        identifier = f"{canary}-i0b0" if place == "document id" else f"ria.{canary}-2-i0b0"
        bundle["id"], made["fullUrl"] = identifier, f"http://mirror.example.org/Bundle/{identifier}"
    elif place == "replaced id":
        target = {"code": "replaces", "targetReference": {"reference": f"Composition/{canary}"}}
        composition["relatesTo"] = [target]
    else:
        assert place == "vaccine"
        dose["vaccineCode"] = {"coding": [{"code": canary, "display": canary}], "text": canary}


@dataclass(frozen=True, slots=True, kw_only=True)
class Planted:
    """The documents of the day and every text in them that says who somebody is."""

    documents: list[Document]
    canaries: dict[str, str]
    """Text → where it was planted."""


def _planted() -> Planted:
    documents, canaries = [LATER], {}
    moment = DAY.start.replace(microsecond=0)
    for number in range(DOCUMENTS):
        person, rng = _person(number), random.Random(number)
        instant = moment.replace(hour=12, minute=number).isoformat(timespec="milliseconds")
        identifier = f"00000000-0000-4000-8000-{number:012d}-i0b0"
        made = build_entry(
            rng, identifier=identifier, person=person, instant=instant, cnes=CNES, with_patient=True, doses=1
        )
        resources(made)[:] = [item for item in resources(made) if item["resource"]["resourceType"] != "Organization"]
        for text in (person.identifier, person.name, person.birth, person.cep, person.professional):
            canaries[text] = "person"
        dose = resources(made)[1]["resource"]
        dose |= {
            "lotNumber": "4120Z005",
            "occurrenceDateTime": "2026-03-10",
            "vaccineCode": {"coding": [{"code": "33"}]},
        }
        dose["protocolApplied"][0]["doseNumberString"] = "1"
        if number < len(ODD_PLACES):
            _plant(made, ODD_PLACES[number], _cpf(900 + number))
            canaries[_cpf(900 + number)] = ODD_PLACES[number]
            if ODD_PLACES[number] == "professional":
                del canaries[person.professional]
        documents.append(
            Document(
                id=identifier,
                version="1",
                last_updated=moment.replace(hour=12, minute=number),
                entry=line_of(made),
            )
        )
    # As it was typed; what stages might make of it is looked for as well.
    lot = _cpf(900)
    del canaries[lot]
    canaries[f"{lot[:3]}.{lot[3:6]}.{lot[6:9]}-{lot[9:]}"] = "lot"
    return Planted(documents=documents, canaries=canaries)


def _text(key: str, body: bytes) -> str:
    """All that an object says, whatever its form."""
    if key.endswith(".parquet"):
        with tempfile.NamedTemporaryFile(suffix=".parquet") as file, duckdb.connect() as connection:
            Path(file.name).write_bytes(body)
            return repr(connection.execute("select * from read_parquet($path)", {"path": file.name}).fetchall())
    return (read_zstd(body) if key.endswith(".zst") else body).decode("utf-8", "replace")


def _everything(store: ObjectStore) -> dict[str, str]:
    return {info.key: f"{info.key}\n{_text(info.key, store.get(info.key).body)}" for info in store.list("v1/")}


@pytest.fixture
def nominal(s3_settings: StorageSettings, s3_server: SeaweedServer) -> Iterator[NominalSettings]:
    """A fresh bucket for files with identifiers."""
    keys = s3_server.pipeline_credentials
    client = s3_server.client(keys)
    bucket = s3_settings.work_bucket.replace("work", "nominal")
    client.create_bucket(Bucket=bucket)
    yield NominalSettings(bucket=bucket, access_key=keys.access_key, secret_key=keys.secret_key)
    for item in client.list_objects_v2(Bucket=bucket).get("Contents", []):
        client.delete_object(Bucket=bucket, Key=item["Key"])
    client.delete_bucket(Bucket=bucket)


def test_nobody_is_found_outside_landing_and_quarantine(
    s3_settings: StorageSettings,
    nominal: NominalSettings,
    controle_dsn: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    planted = _planted()
    caplog.set_level(logging.DEBUG, logger="imunizacao")
    connection = connect(controle_dsn)
    migrate(connection)
    import_cnes(REFERENCE / "cnes" / "BASE_DE_DADOS_CNES_202602.ZIP", connection)
    with running_mirror(planted.documents) as mirror:
        settings = Settings(
            mirror=mirror.settings(page_size=50),
            storage=s3_settings,
            pseudonym=pseudonym_settings(key=OLD, key_id="k1"),
            engine=EngineSettings(scratch_dir=tmp_path),
        )
        first = _run(settings, controle_dsn, "first")
        before = read_day(lambda key: first.public.get(key).body, str(DAY))
        changed = pseudonym_settings(key=NEW, key_id="k2", previous_key=OLD, previous_key_id="k1")
        private, signer = new_key()
        signing = signing_settings(key=private.decode())
        second = _run(replace(settings, pseudonym=changed, nominal=nominal, signing=signing), controle_dsn, "second")
        after = read_day(lambda key: second.public.get(key).body, str(DAY))

    outside = {"shown": _shown(second, controle_dsn, tmp_path), "log": caplog.text + "".join(capfd.readouterr())}
    inside = {}
    for key, text in _everything(second.work).items():
        (inside if "/extract/" in key or "quarantine" in key else outside)[key] = text
    outside |= {f"public:{key}": text for key, text in _everything(second.public).items()}
    with connection, connection.cursor() as cursor:
        cursor.execute("select table_name from information_schema.tables where table_schema = 'controle'")
        for (table,) in cursor.fetchall():
            cursor.execute(f'select * from controle."{table}"')
            outside[f"controle.{table}"] = repr(cursor.fetchall())
    connection.close()

    # The same search finds every one of them in landing, and the kept-back documents in quarantine.
    landed = "\n".join(text for key, text in inside.items() if "/extract/" in key)
    assert [where for text, where in planted.canaries.items() if text not in landed] == []
    kept = "\n".join(text for key, text in inside.items() if "quarantine" in key)
    assert all(_cpf(900 + number) in kept for number, place in enumerate(ODD_PLACES) if "document id" in place)
    assert outside["shown"].count("ID_IDENTIFIES_PERSON") == 2
    assert any(key.startswith("v1/acks/") for key in outside)
    assert "event=" in outside["log"]
    assert len(outside) > 40
    looked_for = planted.canaries | {_cpf(900): "lot, digits alone", private.decode().splitlines()[1]: "signing key"}
    hits = {(where, key) for key, text in outside.items() for canary, where in looked_for.items() if canary in text}
    assert hits == set()

    # A change of keys is told as one, and links both eras.
    assert before.root["pseudonym"] == {"method": "HMAC-SHA256", "keyId": "k1"}
    assert after.root["pseudonym"] == {"method": "HMAC-SHA256", "keyId": "k2", "previousKeyId": "k1"}
    assert [entry["reason"] for entry in after.head["history"]] == ["initial", "pseudonym"]
    old = {row["co_documento"]: row["co_paciente"] for row in before.rows}
    assert len(old) >= 50
    assert {row["co_documento"]: row["co_paciente_anterior"] for row in after.rows} == old
    assert {row["co_paciente_anterior"] for row in before.rows} == {""}
    assert not {row["co_paciente"] for row in after.rows} & set(old.values())
    assert before.outcome["quarantinedByUf"], "the planted id is in quarantine"
    assert {count for counts in before.outcome["quarantinedByUf"].values() for count in counts.values()} == {"*"}

    # The managers' bucket has the same rows with their persons, under a head of its own.
    store = open_nominal_store(s3_settings, nominal)
    head = json.loads(store.get(f"v1/days/{DAY}/head.json").body)
    root = json.loads(store.get(head["current"]["path"]).body)
    assert root["contract"]["name"] == "nominal"
    assert root["rows"] == len(after.rows) == head["current"]["rows"]
    # Both are signed by the key that the second run had.
    for signed in (after.head, head):
        assert signed["current"]["signature"]["keyId"] == signer.key_id
    assert "signature" not in before.head["current"]
    text = "\n".join(_everything(store).values())
    people = [person for person in map(_person, range(len(ODD_PLACES), DOCUMENTS)) if person.identifier in text]
    assert len(people) == DOCUMENTS - len(ODD_PLACES)
    assert all(f'"{person.birth}"' in text for person in people)
    assert not [person.name for person in people if person.name in text]
    assert not [info.key for info in second.work.list("v1/") if "identity" in info.key]


def _shown(services: pipeline.Services, dsn: str, scratch: Path) -> str:
    """The list of the quarantine as a person gets it on the screen."""
    storage, out = services.settings.storage, io.StringIO()
    env = {
        "IMUNIZACAO_MIRROR_URL": "http://127.0.0.1:9/fhir",
        "IMUNIZACAO_S3_ENDPOINT": storage.endpoint_url,
        "IMUNIZACAO_S3_ACCESS_KEY": storage.access_key,
        "IMUNIZACAO_S3_SECRET_KEY": storage.secret_key,
        "IMUNIZACAO_WORK_BUCKET": storage.work_bucket,
        "IMUNIZACAO_PUBLIC_BUCKET": storage.public_bucket,
        "IMUNIZACAO_PSEUDONYM_KEY": NEW,
        "IMUNIZACAO_PSEUDONYM_KEY_ID": "k2",
        "IMUNIZACAO_CONTROLE_DSN": dsn,
        "IMUNIZACAO_SCRATCH_DIR": str(scratch),
    }
    assert main(["quarantine", "show", str(DAY)], env=env, out=out) == 0
    return out.getvalue()


def _run(settings: Settings, dsn: str, run_id: str) -> pipeline.Services:
    services = pipeline.open_services(settings, connect=lambda: connect(dsn), now=lambda: NOW)
    context = RunContext.create(day=DAY, run_id=run_id, code_version="test")
    # Four of the planted documents are kept back: more than a day may have without a word of a person.
    result = pipeline.run_day(context, services, decide_publish="Documentos plantados", decided_by="teste")
    assert (result.published.outcome, result.reconciled.verdict) == ("published", "ok")
    return services
