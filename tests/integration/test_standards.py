"""A published month in the forms of others: HL7's `$bulk-publish`, DCAT, and BagIt, each read as its standard says."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest
from jsonschema import Draft202012Validator

from imunizacao.archive import export_month
from imunizacao.bulk_publish import update_bulk
from imunizacao.cli import main
from imunizacao.contract import load_contract, load_schema
from imunizacao.dcat import describe_catalog
from imunizacao.errors import ConfigurationError, ContractViolation
from imunizacao.indexes import update_catalog
from imunizacao.manifests import Catalog, decode
from imunizacao.settings import StorageSettings
from imunizacao.signing import Signer, new_key, set_state
from imunizacao.storage import ObjectStore, open_public_store, open_work_store
from imunizacao_local.seaweed import SeaweedServer
from tests.support.bag import validate_bag
from tests.support.buckets import fresh_buckets
from tests.support.reader import read_day
from tests.support.small_day import SmallDay, dose, ufs

pytestmark = pytest.mark.servers
MONTH = "2026-03"
BULK = f"v1/months/{MONTH}/bulk-publish.json"
SIGNED, REMOVALS, WITHDRAWN = f"{MONTH}-02", f"{MONTH}-14", f"{MONTH}-31"
ROWS = [dose("a-i0b0", "530010"), dose("b-i0b0", "355030", residence="355030"), dose("c-i0b0", "355030")]
# Fields of HL7's logical models BulkDataManifest and BulkPublishManifest, 4.0.0-ballot.
FIELDS = {
    "manifestType", "transactionTime", "requiresAccessToken", "outputFormat", "outputOrganizedBy", "outputOrganizedByDetail",
    "output", "deleted", "outcome", "link", "updateCadence", "extension",
}  # fmt: skip
FILE_FIELDS = {"type", "url", "continuesInFile", "count", "fileSize", "extension"}
Json = dict[str, Any]


@dataclass(frozen=True)
class Published:
    """A month with a signed day, a day with removals and no doses, a withdrawn day, and the rest pending."""

    settings: StorageSettings
    days: dict[str, SmallDay]
    signer: Signer

    @property
    def public(self) -> ObjectStore:
        return self.days[SIGNED].public

    def get(self, key: str) -> bytes:
        return self.public.get(key).body

    def json(self, key: str) -> Json:
        document: Json = json.loads(self.get(key))
        return document


@pytest.fixture(scope="module")
def month(s3_server: SeaweedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    """Published once for all tests of this file; a test that changes something puts it back."""
    with fresh_buckets(s3_server) as settings:
        folder, signer = tmp_path_factory.mktemp("scratch"), new_key()[1]
        work, public = open_work_store(settings), open_public_store(settings)
        days = {name: SmallDay(name, work, public, folder) for name in (SIGNED, REMOVALS, WITHDRAWN)}
        days[SIGNED].signer = signer
        days[SIGNED].publish(*days[SIGNED].inputs(ROWS))
        days[REMOVALS].publish(*days[REMOVALS].inputs([], removed=["x-i0b0", "y-i0b0"]))
        days[WITHDRAWN].publish(*days[WITHDRAWN].inputs(ROWS[:1]))
        key = f"v1/days/{WITHDRAWN}/head.json"
        head = json.loads(public.get(key).body)
        last = head["history"][-1]
        gone = {name: last[name] for name in ("publishedAt", "dataThrough", "commitToken", "runId", "codeVersion")}
        nothing = dict.fromkeys(("contentId", "path", "sha256", "bytes"))
        entry = gone | nothing | {"revision": 2, "state": "withdrawn", "reason": "withdrawal", "supersedes": 1}
        head |= {"revision": 2, "state": "withdrawn", "current": None, "history": [last, entry]}
        public.put(key, json.dumps(head).encode())
        update_bulk(public, WITHDRAWN)
        yield Published(settings=settings, days=days, signer=signer)


def _rows(body: bytes) -> int:
    return sum(1 for _ in csv.reader(io.StringIO(body.decode()), delimiter=";", strict=True)) - 1


# --- $bulk-publish -------------------------------------------------------------------------------


def test_a_bulk_consumer_finds_every_dose_of_the_month_once(month: Published) -> None:
    manifest = month.json(BULK)
    faults = [error.message for error in Draft202012Validator(load_schema("bulk-publish")).iter_errors(manifest)]
    assert faults == []
    assert set(manifest) <= FIELDS
    address = f"https://s3.example.org/bucket/{BULK}"
    total = 0
    for file in (*manifest["output"], *manifest["deleted"]):
        assert set(file) <= FILE_FIELDS
        key = urljoin(address, file["url"]).removeprefix("https://s3.example.org/bucket/")
        body = month.get(key)
        assert len(body) == file["fileSize"]
        assert hashlib.sha256(body).hexdigest() == file["extension"]["rnds:sha256"]
        assert _rows(body) == file["count"]
        total += file["count"] if "type" in file else 0
    assert {file["extension"]["rnds:operation"] for file in manifest["output"]} == {
        "imunizacao-total-df",
        "imunizacao-total-sp",
    }
    assert total == sum(
        row["rows"] for row in month.json(f"v1/months/{MONTH}/index.json")["days"] if row["day"] == SIGNED
    )
    assert [file["extension"]["rnds:day"] for file in manifest["deleted"]] == [REMOVALS]
    said = manifest["extension"]["rnds:days"]
    assert list(said) == [SIGNED, REMOVALS, WITHDRAWN]
    assert "contentId" not in said[WITHDRAWN]
    heads = [month.json(f"v1/days/{day}/head.json") for day in said]
    assert manifest["transactionTime"] == max(head["history"][-1]["dataThrough"] for head in heads)


def test_the_bulk_manifest_is_rebuilt_from_the_heads_and_follows_them(month: Published) -> None:
    before = month.get(BULK)
    month.public.delete(BULK)
    update_bulk(month.public, REMOVALS)
    assert month.get(BULK) == before
    # A recount moves `dataThrough` and nothing else.
    key = f"v1/days/{SIGNED}/head.json"
    head = month.json(key)
    later = head | {"current": head["current"] | {"dataThrough": "2026-04-02T00:00:00+00:00"}}
    month.public.put(key, json.dumps(later).encode())
    update_bulk(month.public, SIGNED)
    moved, first = month.json(BULK), json.loads(before)
    assert moved["transactionTime"] == "2026-04-02T00:00:00+00:00"
    assert (moved["output"], moved["deleted"]) == (first["output"], first["deleted"])
    month.public.put(key, json.dumps(head).encode())
    update_bulk(month.public, SIGNED)
    assert month.get(BULK) == before
    assert update_bulk(month.public, "2031-05-01") is None


def test_a_day_with_a_damaged_descriptor_is_not_listed_until_it_is_mended(
    month: Published, caplog: pytest.LogCaptureFixture
) -> None:
    """Accident prevented: publish fails over a derived file, and reconcile never gets to judge the day."""
    before, head = month.get(BULK), month.json(f"v1/days/{SIGNED}/head.json")
    descriptor = head["current"]["path"].rpartition("/")[0] + "/uf=53/datapackage.json"
    right = month.get(descriptor)
    update_bulk(month.public, SIGNED)
    assert month.get(BULK) == before
    month.public.put(descriptor, b"{}")
    month.public.delete(BULK)
    with caplog.at_level(logging.WARNING, logger="imunizacao"):
        update_bulk(month.public, SIGNED)
    assert f"event=bulk_publish.day_left_out day={SIGNED}" in caplog.text
    assert SIGNED not in month.json(BULK)["extension"]["rnds:days"]
    month.public.put(descriptor, right)
    update_bulk(month.public, SIGNED)
    assert month.get(BULK) == before


# --- DCAT ----------------------------------------------------------------------------------------


def test_catalog_and_dcat_tell_of_each_other_and_of_the_months(month: Published) -> None:
    body = month.get("v1/catalog.json")
    catalog = json.loads(body)
    assert catalog["months"][0]["bulkPublish"] == BULK
    assert catalog["keys"] == "v1/keys/index.json"
    assert month.get("v1/catalog.jsonld") == describe_catalog(decode(Catalog, body, "catalog"))
    assert month.public.info("v1/catalog.jsonld").content_type == "application/ld+json"  # type: ignore[union-attr]
    month.public.delete("v1/catalog.json")
    page = decode(Catalog, body, "catalog").dictionary
    assert page is not None
    update_catalog(month.public, MONTH, contract=load_contract("dose"), ufs=ufs(), dictionary=page)
    assert month.json("v1/catalog.json")["months"] == catalog["months"]


# --- BagIt ---------------------------------------------------------------------------------------


def _tree(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_month_is_a_valid_bag_that_is_read_like_the_bucket(month: Published, tmp_path: Path) -> None:
    bag = export_month(month.public, MONTH, tmp_path / "first")
    assert bag.path == tmp_path / "first" / f"imunizacao-{MONTH}"
    info = validate_bag(bag.path)
    assert info["Day-Withdrawn"] == [WITHDRAWN]
    assert info["Day-Unsigned"] == [REMOVALS]
    assert len(info["Day-Pending"]) == 28
    assert info["Days-Published"] == ["2"]
    assert info["Bagging-Date"] == ["2026-03-16"]
    # The independent reader of the bucket, with the bag in its place.
    read = read_day(lambda key: (bag.path / "data" / key).read_bytes(), SIGNED)
    assert len(read.rows) == len(ROWS)
    assert read.residents["35"]
    assert (bag.path / "data" / read.head["current"]["signature"]["path"]).is_file()
    assert (bag.path / "data" / f"v1/keys/{month.signer.key_id}.pub").is_file()
    assert len(read_day(lambda key: (bag.path / "data" / key).read_bytes(), REMOVALS).removed) == 2
    again = export_month(month.public, MONTH, tmp_path / "second")
    assert _tree(again.path) == _tree(bag.path), "the same heads make the same bytes"


def test_a_bag_of_one_uf_has_its_files_alone(month: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = {
        "IMUNIZACAO_S3_ENDPOINT": month.settings.endpoint_url,
        "IMUNIZACAO_S3_ACCESS_KEY": month.settings.access_key,
        "IMUNIZACAO_S3_SECRET_KEY": month.settings.secret_key,
        "IMUNIZACAO_WORK_BUCKET": month.settings.work_bucket,
        "IMUNIZACAO_PUBLIC_BUCKET": month.settings.public_bucket,
    }
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr("sys.stderr", err)
    command = ["--plain", "export", "bagit", MONTH, "--destination", str(tmp_path), "--uf", "53"]
    assert main(command, env=env, out=out) == 0, err.getvalue()
    folder = tmp_path / f"imunizacao-{MONTH}-uf53"
    assert validate_bag(folder)["UF"] == ["53"]
    assert f"bag    {folder}" in out.getvalue()
    assert f"Day-Withdrawn: {WITHDRAWN}" in out.getvalue()
    names = set(_tree(folder))
    assert any("uf=53/mun=530010/" in name for name in names)
    assert not [name for name in names if "uf=" in name and "uf=53/" not in name]
    before = _tree(folder)
    assert main(command, env=env, out=out) == 2
    assert "exists and is not overwritten" in err.getvalue()
    assert _tree(folder) == before
    for bad in (["2026-13"], [MONTH, "--uf", "5"], [MONTH, "--uf", "54"]):
        assert main(["export", "bagit", *bad, "--destination", str(tmp_path)], env=env, out=out) == 2
    assert list(tmp_path.iterdir()) == [folder], "nothing half done is left"


def _damaged(month: Published) -> Iterator[tuple[str, bytes, str]]:
    head = month.json(f"v1/days/{SIGNED}/head.json")
    folder = head["current"]["path"].rpartition("/")[0]
    descriptor = json.loads(month.get(f"{folder}/uf=53/datapackage.json"))
    yield f"{folder}/uf=53/{descriptor['resources'][0]['path']}", b"x", "its manifest says"
    yield f"{folder}/removed.csv", b"x", "its manifest says"
    yield head["current"]["signature"]["path"], b"{}", "its manifest says"
    yield "v1/keys/index.json", b'{"schema": "imunizacao.keys/1", "keys": []}', "has no such key"


def test_a_file_that_is_not_as_its_manifest_says_leaves_no_bag(month: Published, tmp_path: Path) -> None:
    for key, body, told in list(_damaged(month)):
        right = month.get(key)
        month.public.put(key, body)
        with pytest.raises(ContractViolation, match=told):
            export_month(month.public, MONTH, tmp_path)
        month.public.delete(key)
        if not key.startswith("v1/keys/"):
            with pytest.raises(ContractViolation, match="does not exist"):
                export_month(month.public, MONTH, tmp_path)
        month.public.put(key, right)
        assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigurationError, match="Nothing is published in 2031-05"):
        export_month(month.public, "2031-05", tmp_path)


def test_a_manifest_cannot_lead_out_of_the_bag(month: Published, tmp_path: Path) -> None:
    head_key = f"v1/days/{SIGNED}/head.json"
    right = month.json(head_key)
    outside = right | {"current": right["current"] | {"path": f"v1/days/{SIGNED}/../../../../../outside/day.json"}}
    month.public.put(head_key, json.dumps(outside).encode())
    with pytest.raises(ContractViolation, match="is not allowed"):
        export_month(month.public, MONTH, tmp_path / "deep" / "er")
    month.public.put(head_key, json.dumps(right).encode())
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_bag_says_which_days_a_revoked_key_has_signed(month: Published, tmp_path: Path) -> None:
    """Last of this file: a revoked key has no way back."""
    set_state(month.public, month.signer.key_id, "revoked", now=datetime(2026, 4, 1, tzinfo=UTC))
    assert validate_bag(export_month(month.public, MONTH, tmp_path).path)["Day-Signed-By-Revoked-Key"] == [SIGNED]
