"""Signed days through the real S3 server: what is signed before what, what a change of keys does, and what is never signed."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jsonschema import Draft202012Validator

from imunizacao import pipeline
from imunizacao.cli import main
from imunizacao.contract import load_contract, load_schema
from imunizacao.errors import ConfigurationError, ContractViolation, StorageUnavailable
from imunizacao.models import CutList
from imunizacao.publish import publish_elsewhere
from imunizacao.settings import Settings, StorageSettings, mirror_settings, pseudonym_settings, signing_settings
from imunizacao.signature_check import check_signature
from imunizacao.signing import Signer, new_key, publish_key, read_keys, resign_day, set_state
from imunizacao.storage import ObjectStore, open_public_store, open_work_store, read_object
from imunizacao.verify import verify_bucket
from imunizacao_local.seaweed import SeaweedServer
from tests.support.buckets import fresh_buckets
from tests.support.small_day import SmallDay, dose
from tests.support.tree import Tree
from tests.support.whole_doses import whole_dose

pytestmark = pytest.mark.servers
NOW = datetime(2026, 3, 16, 12, tzinfo=UTC)
ROWS = [dose("a-i0b0", "530010"), dose("b-i0b0", "355030", residence="355030")]
MORE = [*ROWS, dose("c-i0b0", "120040")]
Json = dict[str, Any]


@pytest.fixture(scope="module")
def buckets(s3_server: SeaweedServer) -> Iterator[StorageSettings]:
    """Two buckets for all tests of this file: each has a day of its own."""
    with fresh_buckets(s3_server) as settings:
        yield settings


@pytest.fixture(scope="module")
def dates() -> Iterator[str]:
    """Days that nothing was published for."""
    return (str(date(2026, 1, 1) + timedelta(days=n)) for n in count())


@pytest.fixture
def day(buckets: StorageSettings, dates: Iterator[str], tmp_path: Path) -> SmallDay:
    """A day without revisions."""
    return SmallDay(next(dates), open_work_store(buckets), open_public_store(buckets), tmp_path)


@pytest.fixture
def own(s3_settings: StorageSettings, tmp_path: Path) -> SmallDay:
    """A day in buckets of its own, for what looks at all keys or days of a bucket."""
    return SmallDay("2026-03-14", open_work_store(s3_settings), open_public_store(s3_settings), tmp_path)


@pytest.fixture
def cli(s3_settings: StorageSettings, tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    """Run a command of `python -m imunizacao` on the buckets of `own`; answers exit code, output and errors."""

    def run(*arguments: str, **env: str) -> tuple[int, str, str]:
        settings = {
            "IMUNIZACAO_S3_ENDPOINT": s3_settings.endpoint_url,
            "IMUNIZACAO_S3_ACCESS_KEY": s3_settings.access_key,
            "IMUNIZACAO_S3_SECRET_KEY": s3_settings.secret_key,
            "IMUNIZACAO_WORK_BUCKET": s3_settings.work_bucket,
            "IMUNIZACAO_PUBLIC_BUCKET": s3_settings.public_bucket,
            **env,
        }
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.stderr", err)
            code = main(["--plain", *arguments], env=settings, out=out)
        return code, out.getvalue(), err.getvalue()

    return run


def _signer() -> Signer:
    return new_key()[1]


def _head(day: SmallDay, store: ObjectStore | None = None) -> Json:
    head: Json = json.loads((store or day.public).get(f"v1/days/{day.day}/head.json").body)
    faults = [error.message for error in Draft202012Validator(load_schema("head")).iter_errors(head)]
    assert faults == []
    return head


def _prove(get: Callable[[str], bytes], head: Json) -> str:
    """Check the signature of a day with nothing of the product; answers the id of the key."""
    current = head["current"]
    named = current["signature"]
    assert named == head["history"][-1]["signature"]
    body = get(named["path"])
    assert (len(body), hashlib.sha256(body).hexdigest()) == (named["bytes"], named["sha256"])
    index = json.loads(get("v1/keys/index.json"))
    assert [error.message for error in Draft202012Validator(load_schema("keys")).iter_errors(index)] == []
    key = next(key for key in index["keys"] if key["keyId"] == named["keyId"])
    pem = get(key["path"])
    assert hashlib.sha256(pem).hexdigest() == key["sha256"]
    public = load_pem_public_key(pem)
    assert isinstance(public, Ed25519PublicKey)
    assert hashlib.sha256(public.public_bytes_raw()).hexdigest()[:16] == named["keyId"]
    envelope = json.loads(body)
    payload = base64.b64decode(envelope["payload"])
    kind = envelope["payloadType"].encode()
    encoded = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
    [signature] = envelope["signatures"]
    public.verify(base64.b64decode(signature["sig"]), encoded)
    statement = json.loads(payload)
    [subject] = statement["subject"]
    root = get(subject["name"])
    assert subject["name"] == current["path"]
    assert hashlib.sha256(root).hexdigest() == subject["digest"]["sha256"] == current["sha256"]
    schema = load_schema("publication")
    assert statement["predicateType"] == schema["$id"]
    assert [error.message for error in Draft202012Validator(schema).iter_errors(statement["predicate"])] == []
    assert statement["predicate"]["rows"] == json.loads(root)["rows"]
    return str(named["keyId"])


def test_key_and_signature_are_there_before_a_head_names_them(day: SmallDay, monkeypatch: pytest.MonkeyPatch) -> None:
    """Accident prevented: a reader who checks signatures refuses a day whose key or signature comes a moment later."""
    day.signer = _signer()
    context, inputs = day.inputs(ROWS)
    put = ObjectStore.put

    def until_the_head(self: ObjectStore, key: str, *args: Any, **kwargs: Any) -> str:
        if key.endswith("/head.json"):
            raise StorageUnavailable("cut")
        return put(self, key, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(ObjectStore, "put", until_the_head)
        with pytest.raises(StorageUnavailable):
            day.publish(context, inputs)
    prefix = f"v1/days/{day.day}/c-{inputs.split.content_id}/"
    signature = day.get(f"{prefix}day.{day.signer.key_id}.dsse.json")
    assert day.public.get_or_none(f"v1/keys/{day.signer.key_id}.pub") is not None
    assert day.signer.key_id in {key.key_id for key in read_keys(day.public)}
    published = day.publish(context, inputs)
    day.reconcile(context, published)
    assert published.signed_by == day.signer.key_id
    assert _prove(day.get, _head(day)) == day.signer.key_id
    assert day.get(f"{prefix}day.{day.signer.key_id}.dsse.json") == signature
    assert json.loads(day.get("v1/catalog.json"))["keys"] == "v1/keys/index.json"


def test_the_signature_of_a_content_through_the_life_of_its_day(
    day: SmallDay, caplog: pytest.LogCaptureFixture
) -> None:
    """No key, the first key, the next key, no key again, another content and back: never a revision for a signature."""
    context, inputs = day.inputs(ROWS)
    with caplog.at_level("WARNING", logger="imunizacao"):
        assert day.publish(context, inputs).signed_by == ""
    told = [record.getMessage() for record in caplog.records if "publish.unsigned" in record.getMessage()]
    assert len(told) == 1
    assert "docs/runbook/unsigned-days.md" in told[0]
    head = _head(day)
    assert "signature" not in head["current"]
    assert "signature" not in head["history"][0]
    etag = day.public.get(f"v1/days/{day.day}/head.json").etag
    day.publish(context, inputs)
    assert day.public.get(f"v1/days/{day.day}/head.json").etag == etag, "nothing to say, nothing written"

    day.signer = first = _signer()
    assert day.publish(context, inputs).outcome == "published", "the same run, done again with a key"
    assert _prove(day.get, _head(day)) == first.key_id
    before = _head(day)["current"]["signature"]

    day.signer = second = _signer()
    again, same = day.inputs(ROWS)
    assert day.publish(again, same).outcome == "unchanged"
    head = _head(day)
    assert len(head["history"]) == 1
    assert _prove(day.get, head) == second.key_id
    assert hashlib.sha256(day.get(before["path"])).hexdigest() == before["sha256"], "the old one stays where it was"

    day.signer = None
    day.publish(*day.inputs(ROWS))
    assert _prove(day.get, _head(day)) == second.key_id, "a run without a key takes none away"
    day.publish(*day.inputs(MORE))
    assert "signature" not in _head(day)["current"]
    day.publish(*day.inputs(ROWS))
    head = _head(day)
    assert (head["revision"], len(head["history"])) == (3, 3)
    assert _prove(day.get, head) == second.key_id, "a content that comes back brings its signature along"


def test_a_head_that_goes_back_names_the_signature_of_the_content_it_goes_back_to(day: SmallDay) -> None:
    day.signer = _signer()
    day.revise(ROWS)
    good = _head(day)["current"]["signature"]
    context, inputs = day.inputs(MORE)
    published = day.publish(context, inputs)
    # What readers would refuse of a signature is a gap like any other.
    day.public.put(_head(day)["current"]["signature"]["path"], b"{}")
    with pytest.raises(ContractViolation, match=r"day\.[0-9a-f]{16}\.dsse\.json: expected .* The head went back"):
        day.reconcile(context, published)
    head = _head(day)
    assert (head["revision"], head["history"][-1]["reason"]) == (3, "restore")
    assert head["current"]["signature"] == good
    assert _prove(day.get, head) == day.signer.key_id


def test_every_part_of_a_signature_is_checked_as_a_reader_does(own: SmallDay) -> None:
    own.signer = signer = _signer()
    own.publish(*own.inputs(ROWS))
    head = _head(own)
    signature = head["current"]["signature"]
    right = {key: own.get(key) for key in (signature["path"], f"v1/keys/{signer.key_id}.pub", "v1/keys/index.json")}

    def gaps(changed: Json | None = None) -> list[str]:
        found: list[str] = []
        check_signature(
            own.public,
            changed or head,
            lambda what, expected, seen: found.append(what) if expected != seen else None,
        )
        return found

    def put_back() -> None:
        for key, body in right.items():
            own.public.put(key, body)

    assert gaps() == []
    other = {"current": head["current"] | {"sha256": "0" * 64}, "day": own.day}
    assert gaps(other) == [f"what {signature['path']} signs"]
    own.public.put(f"v1/keys/{signer.key_id}.pub", _signer().public_pem)
    assert gaps() == [f"sha256 of v1/keys/{signer.key_id}.pub", f"signature {signature['path']}"]
    own.public.put("v1/keys/index.json", b"[]")
    assert gaps() == [f"key {signer.key_id} in v1/keys/index.json"]
    put_back()
    envelope = json.loads(right[signature["path"]])
    payload = base64.b64decode(envelope["payload"]).replace(b'"rows":2', b'"rows":3')
    body = json.dumps(envelope | {"payload": base64.b64encode(payload).decode()}).encode()
    own.public.put(signature["path"], body)
    named = {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    forged = {"current": head["current"] | {"signature": signature | named}, "day": own.day}
    assert gaps(forged) == [f"signature {signature['path']}"]
    own.public.delete(signature["path"])
    assert f"bytes of {signature['path']}" in gaps()
    put_back()
    set_state(own.public, signer.key_id, "revoked", now=NOW)
    assert gaps() == [], "a day that was signed by a key that is revoked since stays readable"


def test_a_key_that_was_ended_signs_nothing_more(own: SmallDay) -> None:
    own.publish(*own.inputs(ROWS))
    before = own.get(f"v1/days/{own.day}/head.json")
    ends: list[Any] = ["retired", "revoked"]
    for state in ends:
        own.signer = _signer()
        publish_key(own.public, own.signer, now=NOW)
        assert set_state(own.public, own.signer.key_id, state, now=NOW) is not None
        with pytest.raises(ConfigurationError, match=f"{own.signer.key_id} is {state}"):
            own.publish(*own.inputs(ROWS))
        assert own.get(f"v1/days/{own.day}/head.json") == before
        assert set_state(own.public, own.signer.key_id, "retired", now=NOW + timedelta(days=1)) is not None
    keys = read_keys(own.public)
    assert [(key.state, key.until) for key in keys] == [(state, NOW.isoformat()) for state in ends], "no way back"


def test_runs_that_publish_a_key_at_once_leave_one_entry(own: SmallDay) -> None:
    signer, other = _signer(), _signer()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: publish_key(own.public, (signer, other)[n % 2], now=NOW), range(8)))
    assert sorted(key.key_id for key in read_keys(own.public)) == sorted([signer.key_id, other.key_id])


def test_another_bucket_is_signed_by_the_same_protocol(own: SmallDay, s3_settings: StorageSettings) -> None:
    context, inputs = own.inputs(ROWS)
    cuts = read_object(own.work, inputs.split.cuts, CutList)
    body = own.engine.scratch_dir / "body.csv"
    # What the nominal stage has on its disk: here the rows of the small day, in the order of the cuts.
    import pyarrow

    packed = own.work.get(inputs.split.body.key).body
    with pyarrow.CompressedInputStream(io.BytesIO(packed), "zstd") as stream:
        body.write_bytes(stream.read())
    signer = _signer()
    done = publish_elsewhere(
        context,
        inputs=replace(inputs, split=replace(inputs.split, residents=None)),
        cuts=replace(cuts, residents=[]),
        body=body,
        contract=load_contract("dose"),
        work=own.work,
        store=own.public,
        stage="nominal",
        now=own.now,
        signer=signer,
    )
    assert done.outcome == "published"
    assert _prove(own.get, _head(own)) == signer.key_id


def test_the_pipeline_signs_with_the_key_of_its_settings_and_tells_a_bad_one_first(
    own: SmallDay, s3_settings: StorageSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A small day has no landing, so no quarantine either.
    monkeypatch.setattr(pipeline.quarantine_stage, "publish_quarantine", lambda *_, **__: None)
    private, signer = new_key()
    settings = Settings(
        mirror=mirror_settings(base_url="http://127.0.0.1:1/fhir"),
        storage=s3_settings,
        pseudonym=pseudonym_settings(key="a key for tests only, thirty-two characters", key_id="test"),
        engine=own.engine,
        signing=signing_settings(key=private.decode()),
    )
    services = pipeline.open_services(settings, now=lambda: datetime(2026, 3, 16, 12, tzinfo=UTC))
    context, inputs = own.inputs(ROWS)
    assert pipeline.publish(context, services, inputs=inputs).signed_by == signer.key_id
    assert _prove(own.get, _head(own)) == signer.key_id
    bad = replace(services, settings=replace(settings, signing=signing_settings(key="canary")))
    with pytest.raises(ConfigurationError, match="neither PEM nor base64"):
        pipeline.resolve_day(context, bad)


# --- commands ------------------------------------------------------------------------------------


def _new(cli: Callable[..., tuple[int, str, str]], file: Path, *more: str) -> str:
    code, out, err = cli("keys", "new", "--out", str(file), *more)
    assert code == 0, err
    return next(line.split()[-1] for line in out.splitlines() if line.startswith("key id"))


def test_a_key_is_made_kept_private_and_never_overwritten(
    own: SmallDay, cli: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    file = tmp_path / "key.pem"
    made = _new(cli, file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    private = file.read_text()
    assert read_keys(own.public) == []
    code, out, err = cli("keys", "new", "--out", str(file))
    assert (code, file.read_text()) == (2, private)
    assert "File exists" in err
    assert private.splitlines()[1] not in out + err
    published = _new(cli, tmp_path / "other.pem", "--publish")
    assert [key.key_id for key in read_keys(own.public)] == [published]
    code, _, err = cli("keys", "sign", "--all")
    assert (code, "IMUNIZACAO_SIGNING_KEY_FILE" in err) == (2, True)
    code, _, err = cli("keys", "list", IMUNIZACAO_S3_SECRET_KEY="")
    assert (code, "IMUNIZACAO_S3_SECRET_KEY: secret key" in err) == (2, True)
    assert "MIRROR" not in err, "nothing of the mirror is needed here"
    code, out, _ = cli("keys", "list", IMUNIZACAO_SIGNING_KEY_FILE=str(file))
    assert code == 0
    assert f"{published}  active" in out
    assert f"configured: {made}" in out


def test_a_first_key_can_be_found_from_the_catalog(
    own: SmallDay, cli: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    own.revise([whole_dose("a", "530010", own.day)])
    before = own.get("v1/catalog.json")
    assert "keys" not in json.loads(before)
    new = _new(cli, tmp_path / "new.pem", "--publish")
    assert json.loads(own.get("v1/catalog.json"))["keys"] == "v1/keys/index.json"
    own.public.put("v1/catalog.json", before)
    code, _, err = cli("keys", "sign", "--all", IMUNIZACAO_SIGNING_KEY_FILE=str(tmp_path / "new.pem"))
    assert code == 0, err
    seen = verify_bucket(Tree({info.key: own.get(info.key) for info in own.public.list("v1/")}), jobs=1)
    assert (seen.findings_count, [day.signed_by for day in seen.days]) == (0, [new])


def test_a_change_of_keys_from_the_command_line(
    own: SmallDay, cli: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    """What the runbook says, in its order: a new key, every day signed again, the old key ended."""
    own.signer = old = _signer()
    own.publish(*own.inputs(ROWS))
    own.publish(*own.inputs(MORE))
    other = SmallDay("2026-03-15", own.work, own.public, tmp_path)
    other.publish(*other.inputs(ROWS))
    new = _new(cli, tmp_path / "new.pem")
    env = {"IMUNIZACAO_SIGNING_KEY_FILE": str(tmp_path / "new.pem")}
    code, out, err = cli("keys", "sign", "--all", **env)
    assert code == 0, err
    assert f"3 contents of 2 days are signed by {new}" in out
    for signed in (own, other):
        head = _head(signed)
        assert _prove(signed.get, head) == new
        assert {entry["signature"]["keyId"] for entry in head["history"]} == {new}
    assert [entry["revision"] for entry in _head(own)["history"]] == [1, 2]

    code, out, _ = cli("keys", "revoke", old.key_id)
    assert (code, "Nothing was changed" in out) == (0, True)
    assert {key.state for key in read_keys(own.public)} == {"active"}
    code, out, _ = cli("keys", "revoke", old.key_id, "--publish")
    assert (code, "keys sign --all" in out) == (0, True)
    assert {key.key_id: key.state for key in read_keys(own.public)} == {old.key_id: "revoked", new: "active"}
    code, _, err = cli("keys", "retire", "0" * 16, "--publish")
    assert (code, "No bucket has a key" in err) == (2, True)
    # Days that are signed go on as before.
    own.signer = None
    own.revise(MORE)
    assert _prove(own.get, _head(own)) == new


def test_what_no_run_published_is_not_signed(
    own: SmallDay, cli: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    """Accident prevented: who can write into the bucket puts another content there, and the next change of keys signs it."""
    own.publish(*own.inputs(ROWS))
    key = f"v1/days/{own.day}/head.json"
    head = _head(own)
    forged = own.get(head["current"]["path"]).replace(b'"rows": 2', b'"rows": 9', 1)
    path = f"v1/days/{own.day}/c-{'f' * 64}/day.json"
    own.public.put(path, forged)
    for place in (head["current"], head["history"][-1]):
        place |= {
            "path": path,
            "contentId": "f" * 64,
            "sha256": hashlib.sha256(forged).hexdigest(),
            "bytes": len(forged),
        }
    own.public.put(key, json.dumps(head).encode())
    _new(cli, tmp_path / "new.pem")
    env = {"IMUNIZACAO_SIGNING_KEY_FILE": str(tmp_path / "new.pem")}
    code, out, err = cli("keys", "sign", "--day", own.day, **env)
    assert code == 6
    assert "not signed, no receipt of a run says that it was published like this" in out
    assert "docs/runbook/signing-keys.md" in err
    assert "signature" not in _head(own)["current"]

    # A root that is not even what the head says is never signed, whoever vouches for it.
    own.public.put(path, forged + b" ")
    signed, [left] = resign_day(own.public, own.day, _signer(), vouched=lambda head, entry: True, now=NOW)
    assert (signed, "its sha256 is not the one in the head" in left.reason) == (0, True)
    own.public.delete(path)
    signed, [left] = resign_day(own.public, own.day, _signer(), vouched=lambda head, entry: True, now=NOW)
    assert (signed, left.reason) == (0, "it is not there any more")
    own.public.put(path, forged)
    code, out, _ = cli("keys", "sign", "--day", own.day, "--without-receipt", **env)
    assert (code, "1 contents of 1 days are signed" in out) == (0, True)
