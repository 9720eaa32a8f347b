"""The mirror's settings from an Airflow connection: the same checks as from the environment, and no typo without a word."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from imunizacao.errors import ConfigurationError
from imunizacao.settings import (
    MirrorSettings,
    environment_help,
    mirror_settings,
    pseudonym_settings,
    settings_from_env,
    signing_settings,
    storage_settings,
)
from imunizacao_airflow.connections import (
    FRESHNESS_DEADLINE,
    mirror_from_connection,
    nominal_from_connection,
    pseudonym_from_connection,
    signing_from_connection,
)

ROOT = Path(__file__).resolve().parents[2]
ENV = {
    "IMUNIZACAO_S3_ENDPOINT": "http://127.0.0.1:8333",
    "IMUNIZACAO_S3_ACCESS_KEY": "access",
    "IMUNIZACAO_S3_SECRET_KEY": "secret",
    "IMUNIZACAO_PSEUDONYM_KEY": "k" * 32,
}
URL = "https://mirror.example.org/fhir/r4"
CNS = "200000000000003"
SECRETS = {
    "password": "canary-password",
    "requester_cns": CNS,
    "client_secret": "canary-secret",
    "signing_private_key": "canary-signing-key",
    "signing_key_passphrase": "canary-signing-passphrase",
    "client_certificate": "canary-certificate",
    "client_private_key": "canary-key",
    "client_certificate_passphrase": "canary-passphrase",
}
EVERYTHING: dict[str, Any] = {
    **SECRETS,
    "auth": "oauth2",
    "login": "login",
    "token_url": "https://auth.example.org/token",
    "client_id": "client",
    "token_endpoint_auth": "form",
    "scope": "system/*.rs",
    "signing_key_id": "kid",
    "ca_file": "/etc/imunizacao/ca.pem",
    "way": "documents",
    "page_size": 50,
    "max_connections": 8,
    "requests_per_second": 2.5,
    "slice_cap": 1000,
    "connect_timeout": 5.0,
    "read_timeout": 120.0,
    "retry_budget": 60.0,
    "export_deadline": 7200.0,
}
FILES = {
    "signing_key_file": "/etc/imunizacao/key.pem",
    "client_certificate_file": "/etc/imunizacao/a1.pfx",
    "client_key_file": "/etc/imunizacao/a1.key",
}


def _connection(extra: dict[str, Any], **fields: Any) -> SimpleNamespace:
    given = {"host": URL, "login": None, "password": None, "schema": None, "port": None, **fields}
    return SimpleNamespace(**given, extra_dejson=extra)


def _from_connection(values: dict[str, Any]) -> MirrorSettings:
    extra = {name: value for name, value in values.items() if name not in {"login", "password"}}
    return mirror_from_connection(_connection(extra, login=values.get("login"), password=values.get("password")))


def _from_env(values: dict[str, Any]) -> MirrorSettings:
    named = {f"IMUNIZACAO_MIRROR_{name.upper()}": str(value) for name, value in values.items()}
    return settings_from_env(ENV | {"IMUNIZACAO_MIRROR_URL": URL} | named).mirror


def _files() -> dict[str, Any]:
    inline = {"signing_private_key", "client_certificate", "client_private_key"}
    return {name: value for name, value in EVERYTHING.items() if name not in inline} | FILES


@pytest.mark.parametrize("values", [{}, EVERYTHING, _files()], ids=["defaults", "texts", "files"])
def test_connection_and_environment_give_the_same_settings(values: dict[str, Any]) -> None:
    assert _from_connection(values) == _from_env(values) == mirror_settings(base_url=URL, **values)


def test_every_setting_of_the_mirror_is_tried_here() -> None:
    """A new parameter must reach its place from both sides."""
    parameters = set(inspect.signature(mirror_settings).parameters) - {"base_url"}
    assert parameters == set(EVERYTHING) | set(FILES)
    for name in parameters:
        assert f"IMUNIZACAO_MIRROR_{name.upper()} " in environment_help()


def test_the_table_of_extras_is_complete() -> None:
    text = (ROOT / "docs" / "connections.md").read_text(encoding="utf-8")
    section = text.split("\n## imunizacao_mirror\n")[1].split("\n## ")[0]
    listed = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    extras = set(inspect.signature(mirror_settings).parameters) - {"login", "password"} | {"path", FRESHNESS_DEADLINE}
    assert len(listed) == len(set(listed))
    assert set(listed) == extras, "docs/connections.md must list every extra, and no other"


def test_numbers_may_come_as_text() -> None:
    found = _from_connection({"page_size": "50", "requests_per_second": "2.5", "retry_budget": 60})
    assert (found.page_size, found.requests_per_second, found.retry_budget) == (50, 2.5, 60.0)


def test_an_empty_extra_is_the_default() -> None:
    assert _from_connection({"auth": "", "page_size": None, "way": ""}) == mirror_settings(base_url=URL)


@pytest.mark.parametrize("typo", ["token_ulr", "client_certificate_passphrase ", "Auth", "verify", "login", "password"])
def test_an_unknown_extra_is_refused_by_name_without_its_value(typo: str) -> None:
    with pytest.raises(ConfigurationError, match=f"unknown extra\\(s\\): {typo}\\.") as failure:
        mirror_from_connection(_connection({typo: "canary"}))
    assert "canary" not in str(failure.value)
    assert "client_certificate_file" in str(failure.value)
    assert "docs/connections.md" in str(failure.value)


@pytest.mark.parametrize(
    ("extra", "told"),
    [
        ({"page_size": "many"}, "`page_size` .* must be a whole number"),
        ({"page_size": 1.5}, "`page_size` .* must be a whole number"),
        ({"page_size": True}, "`page_size` .* must be a text or a number, not a bool"),
        ({"requests_per_second": "fast"}, "`requests_per_second` .* must be a number"),
        ({"retry_budget": "nan"}, "`retry_budget` .* must be a number"),
        ({"retry_budget": -1}, "`retry_budget` .* must be a number, 0 or more"),
        ({"slice_cap": 0}, "slice_cap must be 1 or more"),
        ({"signing_private_key": {"kty": "RSA", "d": "canary"}}, "A JWK goes in as text"),
        ({"scope": ["canary"]}, "must be a text or a number, not a list"),
    ],
)
def test_a_bad_extra_is_refused_by_name(extra: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told) as failure:
        _from_connection(extra)
    assert "canary" not in str(failure.value)


def test_the_keys_of_the_pseudonyms_are_the_same_from_both_sides() -> None:
    present, before = "canary-present-" * 3, "canary-before-" * 3
    connection = SimpleNamespace(
        login="k2", password=present, extra_dejson={"previous_secret": before, "previous_key_id": "k1"}
    )
    environment = {
        "IMUNIZACAO_PSEUDONYM_KEY": present,
        "IMUNIZACAO_PSEUDONYM_KEY_ID": "k2",
        "IMUNIZACAO_PSEUDONYM_PREVIOUS_KEY": before,
        "IMUNIZACAO_PSEUDONYM_PREVIOUS_KEY_ID": "k1",
    }
    wanted = pseudonym_settings(key=present, key_id="k2", previous_key=before, previous_key_id="k1")
    assert (
        pseudonym_from_connection(connection)
        == settings_from_env(ENV | environment | {"IMUNIZACAO_MIRROR_URL": URL}).pseudonym
        == wanted
    )
    connection.extra_dejson = {"previous_secret": "", "previous_key_id": None}
    assert pseudonym_from_connection(connection) == pseudonym_settings(key=present, key_id="k2")


@pytest.mark.parametrize(
    ("connection", "environment", "wanted"),
    [
        ({"password": "canary-key"}, {"IMUNIZACAO_SIGNING_KEY": "canary-key"}, {"key": "canary-key"}),
        (
            {"extra_dejson": {"key_file": "/run/secrets/key.pem"}},
            {"IMUNIZACAO_SIGNING_KEY_FILE": "/run/secrets/key.pem"},
            {"key_file": "/run/secrets/key.pem"},
        ),
        ({"password": "", "extra_dejson": {"key_file": ""}}, {"IMUNIZACAO_SIGNING_KEY": ""}, {}),
    ],
)
def test_the_signing_key_is_the_same_from_both_sides(
    connection: dict[str, Any], environment: dict[str, str], wanted: dict[str, str]
) -> None:
    given = SimpleNamespace(**({"login": None, "password": None, "extra_dejson": {}} | connection))
    found = signing_from_connection({"imunizacao_signing": given}.__getitem__)
    assert found == settings_from_env(ENV | environment | {"IMUNIZACAO_MIRROR_URL": URL}).signing
    assert found == signing_settings(**wanted)
    assert "canary" not in repr(found)


def test_without_a_connection_for_it_nothing_is_signed() -> None:
    from airflow.sdk.exceptions import AirflowNotFoundException

    def missing(name: str) -> SimpleNamespace:
        raise AirflowNotFoundException(name)

    assert signing_from_connection(missing) is None


def test_a_connection_for_signing_that_means_two_things_is_refused() -> None:
    both = SimpleNamespace(password="canary", extra_dejson={"key_file": "/run/secrets/key.pem"})
    with pytest.raises(ConfigurationError, match="leave one of them empty") as error:
        signing_from_connection(lambda name: both)
    assert "canary" not in str(error.value)
    typo = SimpleNamespace(password="", extra_dejson={"keyfile": "/run/secrets/key.pem"})
    with pytest.raises(ConfigurationError, match=r"unknown extra\(s\): keyfile\. Known is: key_file"):
        signing_from_connection(lambda name: typo)


def test_the_nominal_bucket_is_read_only_where_the_worker_has_the_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = storage_settings(endpoint_url="http://127.0.0.1:8333", access_key="a", secret_key="s")
    asked: list[str] = []

    def connection(name: str) -> SimpleNamespace:
        asked.append(name)
        return SimpleNamespace(login="own", password="secret", extra_dejson={"bucket": "managers"})

    monkeypatch.delenv("IMUNIZACAO_NOMINAL", raising=False)
    assert nominal_from_connection(connection, storage) is None
    assert asked == []
    monkeypatch.setenv("IMUNIZACAO_NOMINAL", "on")
    found = nominal_from_connection(connection, storage)
    assert found is not None
    assert (found.bucket, found.access_key, asked) == ("managers", "own", ["imunizacao_nominal"])


def test_a_misspelt_extra_of_the_keys_is_refused() -> None:
    connection = SimpleNamespace(login="k2", password="p" * 32, extra_dejson={"previous_key": "canary" * 6})
    with pytest.raises(
        ConfigurationError, match=r"unknown extra\(s\): previous_key\. Known are: previous_secret"
    ) as error:
        pseudonym_from_connection(connection)
    assert "canary" not in str(error.value)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"auth": "oauth"}, "Expected one of: none, basic, oauth2, smart, rnds"),
    ({"auth": "oauth2", "client_id": "c", "client_secret": "canary"}, "needs token_url, client_id and client_secret"),
    ({"auth": "oauth2", "token_url": URL, "client_id": "c"}, "needs token_url, client_id and client_secret"),
    ({"auth": "oauth2", "token_url": "auth.example.org", "client_id": "c", "client_secret": "canary"}, "not an http"),
    ({"token_endpoint_auth": "header"}, "Expected one of: basic, form"),
    ({"auth": "smart", "client_id": "c"}, "needs client_id, and signing_key_file or signing_private_key"),
    ({"auth": "smart", "signing_private_key": "canary"}, "needs client_id, and"),
    ({"signing_private_key": "canary", "signing_key_file": "/x"}, "Both signing_private_key and signing_key_file"),
    ({"auth": "rnds", "token_url": URL}, "needs the token address and the requester's CNS"),
    ({"auth": "rnds", "token_url": URL, "requester_cns": "200 0000 0000 0003"}, "must be 15 digits"),
    ({"auth": "rnds", "token_url": URL, "requester_cns": f"{CNS}\r\nX: canary"}, "must be 15 digits"),
    ({"client_certificate": "canary", "client_certificate_file": "/x"}, "Both client_certificate and"),
    ({"client_private_key": "canary", "client_key_file": "/x"}, "Both client_private_key and client_key_file"),
    ({"client_certificate_passphrase": "canary"}, "client_certificate_passphrase is set without a certificate"),
    ({"client_key_file": "/x"}, "client_key_file is set without a certificate"),
]


@pytest.mark.parametrize(("values", "told"), BAD)
def test_what_does_not_fit_together_is_refused_from_both_sides(values: dict[str, Any], told: str) -> None:
    for read in (_from_connection, _from_env):
        with pytest.raises(ConfigurationError, match=told) as failure:
            read(values)
        assert "canary" not in str(failure.value)
        assert "200 0000" not in str(failure.value)


def test_a_certificate_that_would_never_be_shown_is_refused() -> None:
    values = {"base_url": "http://mirror.example.org/fhir", "client_certificate_file": "/x"}
    with pytest.raises(ConfigurationError, match="neither the mirror nor its token service has an https address"):
        mirror_settings(**values)
    token_url = "https://auth.example.org/api/token"
    found = mirror_settings(**values, auth="rnds", token_url=token_url, requester_cns=CNS)
    assert found.client_certificate_file == "/x"


def test_secrets_are_not_shown() -> None:
    for settings in (_from_connection(EVERYTHING), _from_env(EVERYTHING)):
        for shown in (repr(settings), str(settings), f"{settings!r}", json.dumps(repr(settings))):
            assert "canary" not in shown
            assert CNS not in shown
        for name, value in SECRETS.items():
            assert getattr(settings, name) == value
