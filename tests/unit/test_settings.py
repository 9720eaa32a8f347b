"""Settings: everything missing is named at once, bad values say what is right, secrets stay out of sight."""

from __future__ import annotations

from pathlib import Path

import pytest

from imunizacao.errors import ConfigurationError
from imunizacao.settings import (
    HousekeepingSettings,
    environment_help,
    mirror_settings,
    pseudonym_settings,
    settings_from_env,
    storage_settings,
)

ENV = {
    "IMUNIZACAO_MIRROR_URL": "https://mirror.example.org/fhir/r4/",
    "IMUNIZACAO_S3_ENDPOINT": "http://127.0.0.1:8333",
    "IMUNIZACAO_S3_ACCESS_KEY": "access",
    "IMUNIZACAO_S3_SECRET_KEY": "canary-secret-key",
    "IMUNIZACAO_PSEUDONYM_KEY": "canary-pseudonym-key-of-32-characters",
}


def test_the_required_settings_are_enough() -> None:
    settings = settings_from_env(ENV | {"PATH": "/bin", "AIRFLOW_HOME": "/x"})
    assert settings.mirror.base_url == "https://mirror.example.org/fhir/r4"
    assert (settings.mirror.auth, settings.mirror.page_size, settings.mirror.max_connections) == ("none", 500, 4)
    assert (settings.storage.work_bucket, settings.storage.public_bucket) == ("imunizacao-work", "imunizacao-public")
    assert settings.pseudonym.key == b"canary-pseudonym-key-of-32-characters"
    assert settings.pseudonym.key_id == "k1"
    assert (settings.engine.threads, settings.engine.memory_limit) == (2, "1GB")
    assert settings.controle_dsn == ""


def test_every_setting_reaches_its_place(tmp_path: Path) -> None:
    settings = settings_from_env(
        ENV
        | {
            "IMUNIZACAO_MIRROR_AUTH": "rnds",
            "IMUNIZACAO_MIRROR_TOKEN_URL": "https://token.example.org",
            "IMUNIZACAO_MIRROR_REQUESTER_CNS": "7" * 15,
            "IMUNIZACAO_MIRROR_PAGE_SIZE": "50",
            "IMUNIZACAO_MIRROR_MAX_CONNECTIONS": "8",
            "IMUNIZACAO_MIRROR_REQUESTS_PER_SECOND": "2.5",
            "IMUNIZACAO_MIRROR_RETRY_BUDGET": "60",
            "IMUNIZACAO_S3_REGION": "sa-east-1",
            "IMUNIZACAO_WORK_BUCKET": "w",
            "IMUNIZACAO_PUBLIC_BUCKET": "p",
            "IMUNIZACAO_PSEUDONYM_KEY_ID": "k2-2026",
            "IMUNIZACAO_CONTROLE_DSN": "postgresql://127.0.0.1/x",
            "IMUNIZACAO_THREADS": "4",
            "IMUNIZACAO_MEMORY_LIMIT": "512 MiB",
            "IMUNIZACAO_SCRATCH_DIR": str(tmp_path),
        }
    )
    mirror = settings.mirror
    assert (mirror.auth, mirror.token_url, mirror.requester_cns) == ("rnds", "https://token.example.org", "7" * 15)
    assert (mirror.page_size, mirror.max_connections) == (50, 8)
    assert (mirror.requests_per_second, mirror.retry_budget) == (2.5, 60.0)
    storage = settings.storage
    assert (storage.region, storage.work_bucket, storage.public_bucket) == ("sa-east-1", "w", "p")
    assert settings.pseudonym.key_id == "k2-2026"
    assert settings.controle_dsn == "postgresql://127.0.0.1/x"
    engine = settings.engine
    assert (engine.threads, engine.memory_limit, engine.scratch_dir) == (4, "512 MiB", tmp_path)


def test_basic_authentication_takes_login_and_password() -> None:
    settings = settings_from_env(
        ENV
        | {
            "IMUNIZACAO_MIRROR_AUTH": "basic",
            "IMUNIZACAO_MIRROR_LOGIN": "pipeline",
            "IMUNIZACAO_MIRROR_PASSWORD": "canary-password",
        }
    )
    assert (settings.mirror.login, settings.mirror.password) == ("pipeline", "canary-password")


@pytest.mark.parametrize("empty", [{}, dict.fromkeys(ENV, "")], ids=["absent", "empty"])
def test_missing_settings_are_named_together(empty: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError) as error:
        settings_from_env(empty)
    for name in ENV:
        assert name in str(error.value), f"{name} is not in the message"


def test_only_what_is_missing_is_named() -> None:
    env = {name: value for name, value in ENV.items() if name != "IMUNIZACAO_S3_ENDPOINT"}
    with pytest.raises(ConfigurationError, match="Missing setting") as error:
        settings_from_env(env)
    assert "IMUNIZACAO_S3_ENDPOINT" in str(error.value)
    assert "IMUNIZACAO_PSEUDONYM_KEY" not in str(error.value)


def test_a_misspelt_setting_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"Unknown setting.*IMUNIZACAO_TREADS"):
        settings_from_env(ENV | {"IMUNIZACAO_TREADS": "4"})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("IMUNIZACAO_MIRROR_URL", "mirror.example.org", "not an http"),
        ("IMUNIZACAO_MIRROR_URL", "ftp://mirror.example.org", "not an http"),
        ("IMUNIZACAO_MIRROR_URL", "http://", "not an http"),
        ("IMUNIZACAO_S3_ENDPOINT", "127.0.0.1:8333", "not an http"),
        ("IMUNIZACAO_MIRROR_AUTH", "oauth", "Expected one of: none, basic, oauth2, smart, rnds"),
        ("IMUNIZACAO_MIRROR_AUTH", "basic", "needs login and password"),
        ("IMUNIZACAO_MIRROR_AUTH", "rnds", "needs the token address"),
        ("IMUNIZACAO_MIRROR_PAGE_SIZE", "many", "not a whole number"),
        ("IMUNIZACAO_MIRROR_PAGE_SIZE", "1.5", "not a whole number"),
        ("IMUNIZACAO_MIRROR_PAGE_SIZE", "0", "must be 1 or more"),
        ("IMUNIZACAO_MIRROR_PAGE_SIZE", "10001", "page size must be"),
        ("IMUNIZACAO_MIRROR_MAX_CONNECTIONS", "65", "connections 1–64"),
        ("IMUNIZACAO_MIRROR_MAX_CONNECTIONS", "-1", "must be 1 or more"),
        ("IMUNIZACAO_MIRROR_REQUESTS_PER_SECOND", "fast", "not a number"),
        ("IMUNIZACAO_MIRROR_REQUESTS_PER_SECOND", "-1", "must be 0 or more"),
        ("IMUNIZACAO_MIRROR_RETRY_BUDGET", "-0.1", "must be 0 or more"),
        ("IMUNIZACAO_MIRROR_CONNECT_TIMEOUT", "0", "connect_timeout must be above 0"),
        ("IMUNIZACAO_MIRROR_READ_TIMEOUT", "4000", "read_timeout at most 3600"),
        ("IMUNIZACAO_PSEUDONYM_KEY_ID", "Key 1", "must be 1–16"),
        ("IMUNIZACAO_THREADS", "0", "must be 1 or more"),
        ("IMUNIZACAO_THREADS", "two", "not a whole number"),
        ("IMUNIZACAO_MEMORY_LIMIT", "1", "is not a size"),
        ("IMUNIZACAO_MEMORY_LIMIT", "80%", "is not a size"),
        ("IMUNIZACAO_MEMORY_LIMIT", "-1GB", "is not a size"),
        ("IMUNIZACAO_SCRATCH_DIR", "/nonexistent-folder", "is not a folder"),
    ],
)
def test_a_bad_value_is_refused_with_what_is_right(name: str, value: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        settings_from_env(ENV | {name: value})


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_not_a_number_is_not_a_number(value: str) -> None:
    with pytest.raises(ConfigurationError):
        settings_from_env(ENV | {"IMUNIZACAO_MIRROR_REQUESTS_PER_SECOND": value})


@pytest.mark.parametrize("key", ["", "canary-short-key", "canary-key-of-just-31-characters"[:31]])
def test_a_short_pseudonym_key_is_refused_without_being_shown(key: str) -> None:
    with pytest.raises(ConfigurationError, match=f"has {len(key)} characters, 32 or more are needed") as error:
        pseudonym_settings(key=key, key_id="k1")
    assert "canary" not in str(error.value)


def test_a_pseudonym_key_of_32_characters_is_taken() -> None:
    assert pseudonym_settings(key="ç" * 32, key_id="k1").key == ("ç" * 32).encode()


def test_while_keys_change_there_are_two() -> None:
    before = {
        "IMUNIZACAO_PSEUDONYM_PREVIOUS_KEY": "canary-key-before-of-32-characters",
        "IMUNIZACAO_PSEUDONYM_PREVIOUS_KEY_ID": "k0",
    }
    found = settings_from_env(ENV | before).pseudonym
    assert (found.previous_key, found.previous_key_id) == (b"canary-key-before-of-32-characters", "k0")
    assert "canary" not in repr(found)
    alone = settings_from_env(ENV | dict.fromkeys(before, "")).pseudonym
    assert (alone.previous_key, alone.previous_key_id) == (b"", "")


@pytest.mark.parametrize(
    ("previous", "message"),
    [
        ({"previous_key": "canary-before-" * 3}, "previous pseudonym key is set without its id"),
        ({"previous_key_id": "k0"}, "previous pseudonym id is set without its key"),
        ({"previous_key": "canary-short", "previous_key_id": "k0"}, "previous pseudonym key has 12 characters"),
        ({"previous_key": "canary-before-" * 3, "previous_key_id": "K 0"}, "id 'K 0' of the previous pseudonym key"),
        ({"previous_key": "canary-before-" * 3, "previous_key_id": "k1"}, "have the same id 'k1'"),
        ({"previous_key": "canary-present-" * 3, "previous_key_id": "k0"}, "are the same key under two ids"),
    ],
)
def test_a_change_of_keys_that_cannot_be_meant_is_refused_without_showing_a_key(
    previous: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message) as error:
        pseudonym_settings(key="canary-present-" * 3, key_id="k1", **previous)
    assert "canary" not in str(error.value)


def test_one_bucket_for_both_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="would be readable"):
        settings_from_env(ENV | {"IMUNIZACAO_WORK_BUCKET": "same", "IMUNIZACAO_PUBLIC_BUCKET": "same"})
    with pytest.raises(ConfigurationError, match="would be readable"):
        settings_from_env(ENV | {"IMUNIZACAO_PUBLIC_BUCKET": "imunizacao-work"})
    with pytest.raises(ConfigurationError, match="would be readable"):
        storage_settings(
            endpoint_url="http://127.0.0.1:1", access_key="a", secret_key="s", work_bucket="b", public_bucket="b"
        )


NOMINAL = {"IMUNIZACAO_NOMINAL": "on", "IMUNIZACAO_NOMINAL_BUCKET": "managers"}


@pytest.mark.parametrize("switch", [{}, {"IMUNIZACAO_NOMINAL": ""}, {"IMUNIZACAO_NOMINAL": "off"}])
def test_nothing_nominal_without_the_switch(switch: dict[str, str]) -> None:
    assert settings_from_env(ENV | {"IMUNIZACAO_NOMINAL_BUCKET": "managers"} | switch).nominal is None


def test_nominal_uses_the_identity_of_the_pipeline_or_one_of_its_own() -> None:
    found = settings_from_env(ENV | NOMINAL).nominal
    assert found is not None
    assert (found.bucket, found.access_key) == ("managers", ENV["IMUNIZACAO_S3_ACCESS_KEY"])
    own = {"IMUNIZACAO_NOMINAL_ACCESS_KEY": "own", "IMUNIZACAO_NOMINAL_SECRET_KEY": "canary-own-secret"}
    found = settings_from_env(ENV | NOMINAL | own).nominal
    assert found is not None
    assert (found.access_key, found.secret_key) == ("own", "canary-own-secret")
    assert "canary" not in repr(found)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"IMUNIZACAO_NOMINAL": "yes"}, "IMUNIZACAO_NOMINAL is 'yes'. Expected on or off"),
        ({"IMUNIZACAO_NOMINAL_BUCKET": ""}, "no bucket for files with identifiers is named"),
        ({"IMUNIZACAO_NOMINAL_BUCKET": "imunizacao-work"}, "is the work or the public bucket"),
        ({"IMUNIZACAO_NOMINAL_BUCKET": "imunizacao-public"}, "is the work or the public bucket"),
        ({"IMUNIZACAO_NOMINAL_ACCESS_KEY": "own"}, "Only one of access key and secret key of the nominal bucket"),
    ],
)
def test_nominal_is_refused_unless_all_of_it_is_there(change: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        settings_from_env(ENV | NOMINAL | change)


def test_retentions_have_defaults_and_must_not_take_from_a_run_what_it_needs() -> None:
    assert settings_from_env(ENV).housekeeping == HousekeepingSettings()
    changed = settings_from_env(
        ENV
        | {
            "IMUNIZACAO_KEEP_WITHDRAWN_DAYS": "0",
            "IMUNIZACAO_KEEP_LANDING_DAYS": "30",
            "IMUNIZACAO_KEEP_DOCS_DAYS": "9",
        }
    ).housekeeping
    assert (changed.withdrawn_days, changed.landing_days, changed.docs_days) == (0, 30, 9)
    for name, value in (("LANDING", "29"), ("RUNS", "6"), ("ORPHANS", "0"), ("WITHDRAWN", "-1"), ("RUNS", "x")):
        with pytest.raises(ConfigurationError, match=f"IMUNIZACAO_KEEP_LANDING_DAYS|IMUNIZACAO_KEEP_{name}_DAYS"):
            settings_from_env(ENV | {f"IMUNIZACAO_KEEP_{name}_DAYS": value})


def test_secrets_are_not_shown() -> None:
    settings = settings_from_env(
        ENV
        | {
            "IMUNIZACAO_MIRROR_AUTH": "basic",
            "IMUNIZACAO_MIRROR_LOGIN": "pipeline",
            "IMUNIZACAO_MIRROR_PASSWORD": "canary-password",
            "IMUNIZACAO_MIRROR_REQUESTER_CNS": "700000000000005",
            "IMUNIZACAO_CONTROLE_DSN": "postgresql://user:canary-dsn@127.0.0.1/x",
        }
    )
    for shown in (repr(settings), str(settings), f"{settings.mirror!r} {settings.storage!r} {settings.pseudonym!r}"):
        assert "canary" not in shown
        assert "700000000000005" not in shown
        assert "pipeline" in shown or "access" in shown, "what is no secret should stay visible"


@pytest.mark.parametrize("name", ["IMUNIZACAO_MIRROR_URL", "IMUNIZACAO_S3_ENDPOINT"])
def test_credentials_in_a_bad_address_are_not_shown(name: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        settings_from_env(ENV | {name: "ftp://user:canary-in-the-address@mirror.example.org"})
    assert "canary" not in str(error.value)


def test_an_address_that_cannot_be_read_is_a_wrong_setting() -> None:
    with pytest.raises(ConfigurationError, match=r"The mirror's address .* is not an http\(s\) address"):
        mirror_settings(base_url="http://[fd00::1/fhir")


@pytest.mark.parametrize("address", ["https://mirror.example.org/fhir/r4", "https://mirror.example.org/fhir/r4///"])
def test_the_address_of_the_mirror_has_no_slash_at_the_end(address: str) -> None:
    assert mirror_settings(base_url=address).base_url == "https://mirror.example.org/fhir/r4"


def test_the_help_names_every_setting() -> None:
    text = environment_help()
    for name in (*ENV, "IMUNIZACAO_CONTROLE_DSN", "IMUNIZACAO_SCRATCH_DIR", "IMUNIZACAO_MIRROR_AUTH"):
        assert name in text
