"""The door to the object store, against a real S3 server and against one that lies."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from imunizacao.errors import ConfigurationError, ContractViolation, PublicationConflict, StorageUnavailable
from imunizacao.settings import StorageSettings, storage_settings
from imunizacao.storage import (
    FileSlice,
    ObjectMissing,
    ObjectStore,
    PreconditionLost,
    open_public_store,
    probe_store,
    sha256_of,
    swap,
)
from imunizacao_local.ports import free_ports
from tests.support.forgetful_s3 import forgetful_s3

pytestmark = pytest.mark.servers


def test_a_store_that_keeps_its_promises_passes_the_probe_and_is_left_clean(public: ObjectStore) -> None:
    probe_store(public)
    assert list(public.list("v1/")) == []


def test_a_store_that_ignores_conditions_is_refused() -> None:
    with forgetful_s3() as endpoint:
        settings = storage_settings(endpoint_url=endpoint, access_key="a", secret_key="b")
        with pytest.raises(ConfigurationError, match="If-None-Match"):
            probe_store(open_public_store(settings))


def test_only_one_of_many_writers_moves_a_pointer_at_a_time(public: ObjectStore) -> None:
    def add_one(body: bytes | None) -> tuple[bytes, int]:
        value = int(body or b"0") + 1
        return str(value).encode(), value

    answers: list[int] = []
    errors: list[Exception] = []

    def work() -> None:
        for _ in range(5):
            while True:
                try:
                    answers.append(swap(public, "v1/counter", add_one))
                    break
                except PublicationConflict as error:
                    errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == list(range(1, 21)), "an update was lost or counted twice"
    assert public.get("v1/counter").body == b"20"


def test_a_pointer_that_needs_no_change_is_not_written(public: ObjectStore) -> None:
    public.put("v1/pointer", b"same")
    before = public.info("v1/pointer")
    assert swap(public, "v1/pointer", lambda body: (body, "kept")) == "kept"
    assert swap(public, "v1/pointer", lambda body: (None, "left")) == "left"
    assert public.info("v1/pointer") == before


def test_a_body_that_is_not_its_checksum_is_refused_by_the_server(public: ObjectStore) -> None:
    with pytest.raises(StorageUnavailable):
        public.put("v1/x", b"body", sha256=sha256_of(b"other"))
    assert public.info("v1/x") is None


def test_create_only_refuses_the_second_writer(public: ObjectStore) -> None:
    public.put("v1/x", b"1", only_if_absent=True)
    with pytest.raises(PreconditionLost):
        public.put("v1/x", b"2", only_if_absent=True)
    assert public.get("v1/x").body == b"1"


@pytest.mark.parametrize("key", ["v1/a/", "v1/../a", "/v1/a", "v1//a", "v1/á", "v1/a b", ""])
def test_a_key_that_could_be_misread_is_refused(public: ObjectStore, key: str) -> None:
    with pytest.raises(ContractViolation):
        public.put(key, b"")


def test_a_slice_of_a_file_is_uploaded_as_header_and_range(public: ObjectStore, tmp_path: Path) -> None:
    body = tmp_path / "body"
    body.write_bytes(b"0123456789")
    with FileSlice(b"top\n", body, offset=3, length=4) as part:
        assert len(part) == 8
        public.put("v1/slice", part, sha256=sha256_of(b"top\n3456"))
    assert public.get("v1/slice").body == b"top\n3456"
    assert b"".join(public.stream("v1/slice")) == b"top\n3456"


def test_a_damaged_download_is_noticed(public: ObjectStore, tmp_path: Path) -> None:
    public.put("v1/x", b"abc")
    public.download("v1/x", tmp_path / "x", sha256=sha256_of(b"abc"))
    assert (tmp_path / "x").read_bytes() == b"abc"
    with pytest.raises(ContractViolation, match="changed or damaged"):
        public.download("v1/x", tmp_path / "x", sha256=sha256_of(b"abd"))


def test_what_is_missing_says_so(public: ObjectStore) -> None:
    assert public.get_or_none("v1/none") is None
    assert public.info("v1/none") is None
    with pytest.raises(ObjectMissing):
        public.get("v1/none")


def _other(settings: StorageSettings, **changes: str) -> ObjectStore:
    values = {
        "endpoint_url": settings.endpoint_url,
        "access_key": settings.access_key,
        "secret_key": settings.secret_key,
        "public_bucket": settings.public_bucket,
    }
    return open_public_store(storage_settings(**{**values, **changes}))


def test_wrong_credentials_a_missing_bucket_and_a_dead_server_each_say_what_to_do(s3_settings: StorageSettings) -> None:
    with pytest.raises(ConfigurationError, match="secret key"):
        _other(s3_settings, secret_key="wrong" * 8).get("v1/x")
    with pytest.raises(ConfigurationError, match="does not exist"):
        _other(s3_settings, public_bucket="no-such-bucket").require_bucket()
    dead = f"http://127.0.0.1:{free_ports(1)[0]}"
    with pytest.raises(StorageUnavailable, match="is up and its address is right"):
        _other(s3_settings, endpoint_url=dead).get("v1/x")
