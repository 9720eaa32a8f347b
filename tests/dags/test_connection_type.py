"""The connection type of the mirror: found by Airflow, complete in its form, and tested by asking the mirror."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tomllib
from datetime import timedelta
from importlib import metadata
from types import SimpleNamespace
from typing import Any, get_type_hints

import pytest

from imunizacao.errors import ConfigurationError
from imunizacao.settings import mirror_settings
from imunizacao_airflow.connections import freshness_deadline, mirror_from_connection
from imunizacao_airflow.provider import CONNECTION_TYPE, FIELDS, PACKAGE, get_provider_info
from imunizacao_local.airflow_server import FORM_EXTRAS
from imunizacao_local.mirror import MirrorServer
from imunizacao_local.ports import free_ports
from tests.dags.conftest import DOCUMENTS, ROOT, connection_json
from tests.integration.export_support import accepted, problem, running_export

pytestmark = [pytest.mark.airflow, pytest.mark.filterwarnings("ignore", "error:::imunizacao")]

NOT_IN_FORM = {"base_url", "path", "login", "password"}
"""In the form `host`, `login` and `password` have fields of their own."""


def test_the_form_has_a_field_for_every_extra_that_is_read_and_no_other() -> None:
    parameters = set(get_type_hints(mirror_settings)) - {"return"}
    names = [field.name for field in FIELDS]
    assert set(names) == parameters - NOT_IN_FORM | {"freshness_deadline_hours"}
    assert len(set(names)) == len(names)
    assert tuple(names) == FORM_EXTRAS, "the local stack stores the extras of the form: change both"


def test_what_must_not_be_shown_is_hidden_in_the_form() -> None:
    hidden = {field.name for field in FIELDS if field.form == "password"}
    assert hidden == {
        "requester_cns",
        "client_secret",
        "client_certificate",
        "client_certificate_passphrase",
        "client_private_key",
        "signing_private_key",
        "signing_key_passphrase",
    }


@pytest.mark.parametrize("name", [field.name for field in FIELDS if field.choices])
def test_the_choices_of_the_form_are_those_of_the_settings(name: str) -> None:
    (field,) = (found for found in FIELDS if found.name == name)
    everything = {
        "base_url": "https://mirror.example.org/fhir/r4",
        "login": "a",
        "password": "b",
        "token_url": "https://auth.example.org/token",
        "requester_cns": "700000000000005",
        "client_id": "c",
        "client_secret": "d",
    }
    refused = {}
    for choice in (*field.choices, "another"):
        try:
            mirror_settings(**everything, **{name: choice})
        except ConfigurationError as error:
            refused[choice] = str(error)
    assert "another" in refused, "this setting takes anything: it is no choice"
    # `smart` is known, but wants a key that is not here.
    assert {choice for choice in refused if "unknown" in refused[choice].lower()} <= {"another"}
    assert set(refused) <= {"another", "smart"}


def test_a_form_left_empty_is_the_same_as_no_extras() -> None:
    connection = {
        "host": "https://mirror.example.org/fhir/r4",
        "login": None,
        "password": None,
        "schema": "",
        "port": 443,
    }
    empty = SimpleNamespace(**connection, extra_dejson=dict.fromkeys(FORM_EXTRAS))
    none = SimpleNamespace(**connection, extra_dejson={})
    assert mirror_from_connection(empty) == mirror_from_connection(none)
    assert freshness_deadline(empty) == freshness_deadline(none) == timedelta(hours=6)


@pytest.mark.parametrize(
    ("extra", "param", "hours"), [(None, None, 6), (12, None, 12), ("1.5", None, 1.5), (12, 0, 0), (None, 72, 72)]
)
def test_the_param_of_the_run_wins_over_the_connection(extra: Any, param: float | None, hours: float) -> None:
    connection = SimpleNamespace(extra_dejson={"freshness_deadline_hours": extra})
    assert freshness_deadline(connection, param) == timedelta(hours=hours)


@pytest.mark.parametrize("value", ["soon", -1, 73, [6]])
def test_a_deadline_that_is_none_is_refused_with_its_place(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="freshness_deadline_hours of Airflow connection imunizacao_mirror"):
        freshness_deadline(SimpleNamespace(extra_dejson={"freshness_deadline_hours": value}))


def test_the_distribution_beside_the_code_names_the_provider() -> None:
    distribution = metadata.distribution(PACKAGE)
    (entry,) = distribution.entry_points
    assert (entry.group, entry.load()) == ("apache_airflow_provider", get_provider_info)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert distribution.version == project["version"]


def test_airflow_finds_the_type_with_its_form_and_its_hook(airflow_env: dict[str, str]) -> None:
    from airflow.api_fastapi.core_api.services.ui.connections import HookMetaService
    from airflow.providers_manager import ProvidersManager

    (meta,) = (found for found in HookMetaService.hook_meta_data() if found.connection_type == CONNECTION_TYPE)
    assert meta.hook_name == "FHIR mirror (RNDS)"
    assert meta.extra_fields is not None
    assert list(meta.extra_fields) == [field.name for field in FIELDS]
    assert meta.extra_fields["requester_cns"]["schema"]["format"] == "password"
    assert meta.standard_fields is not None
    assert meta.standard_fields.host.title == "Endereço FHIR"
    hook = ProvidersManager().hooks[CONNECTION_TYPE]
    assert hook is not None
    assert hook.connection_testable


@pytest.mark.servers
def test_the_test_button_asks_the_mirror(
    airflow_env: dict[str, str], mirror: MirrorServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, message = press_test(monkeypatch, mirror.base_url)
    assert status is True, message
    assert message.startswith("O espelho responde (imunizacao mirror simulator ")
    assert "FHIR 4.0.1) e aceita a autenticação none; " in message
    count = int(message.split("none; ")[1].split(" ")[0].replace(".", ""))
    assert 0 < count <= 2 * DOCUMENTS


@pytest.mark.servers
def test_the_test_button_orders_an_export_where_there_is_no_search(airflow_env: dict[str, str]) -> None:
    from imunizacao_airflow.hooks import probe

    with running_export() as mirror:
        mirror.on("GET /fhir/$export", problem(405, "not-supported"))
        mirror.on("POST /fhir/$export", accepted("/fhir/status/1"))
        mirror.on("DELETE /fhir/status/1", accepted(None))
        found = asyncio.run(probe(mirror.settings(way="export")))
        assert len(mirror.asked_for("DELETE /fhir/status/1")) == 1
    assert found.last_day is None
    assert found.sentence.endswith("; não tem busca, e aceitou um pedido de exportação ($export).")


def test_the_test_button_says_what_is_wrong_and_what_to_do(
    airflow_env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = f"http://127.0.0.1:{free_ports(1)[0]}"
    status, message = press_test(monkeypatch, f"{base}/fhir/r4")
    assert status is False
    assert message.startswith(f"MirrorUnavailable: Cannot reach the mirror at {base}: connection refused")
    assert "docs/runbook/mirror-unavailable.md" in message
    status, message = press_test(monkeypatch, f"{base}/fhir/r4", auth="rnds")
    assert status is False
    assert message.startswith("ConfigurationError: ")


def press_test(monkeypatch: pytest.MonkeyPatch, address: str, **extra: Any) -> tuple[bool, str]:
    """As the API server does: an Airflow connection, through its URI, to its hook."""
    from airflow.models.connection import Connection

    made = Connection(
        conn_id="under_test",
        conn_type=CONNECTION_TYPE,
        host=address,
        extra=connection_json(**(dict.fromkeys(FORM_EXTRAS) | extra)),
    )
    monkeypatch.setenv("AIRFLOW_CONN_UNDER_TEST", made.get_uri())
    status, message = made.test_connection()
    return status, message


def test_the_description_of_the_provider_costs_nothing_to_import() -> None:
    """Airflow imports it in every component and before every task."""
    code = (
        "import sys; import imunizacao_airflow.provider; "
        "found = {'airflow', 'httpx', 'imunizacao', 'msgspec'} & set(sys.modules); sys.exit(str(found) if found else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(ROOT / "include")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
