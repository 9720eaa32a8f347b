"""A real Airflow on a database of its own. Everything that Airflow reads at import is set before it is imported."""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from imunizacao_local.postgres import PostgresServer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def airflow_env(tmp_path_factory: pytest.TempPathFactory, postgres: PostgresServer) -> Iterator[dict[str, str]]:
    """Environment of an Airflow with PostgreSQL metadata and this project's DAGs and plugins."""
    if "airflow" in sys.modules:
        raise RuntimeError("airflow was imported before its settings: an earlier test imports it at module level")
    home = tmp_path_factory.mktemp("airflow")
    postgres.create_database("airflow_dags")
    env = {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DEFAULT_TIMEZONE": "America/Sao_Paulo",
        "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": postgres.dsn("airflow_dags").replace(
            "postgresql://", "postgresql+psycopg2://"
        ),
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(32),
        "AIRFLOW__CORE__FERNET_KEY": "",
    }
    before = dict(os.environ)
    os.environ.update(env)
    yield env
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def dag_bag(airflow_env: dict[str, str]) -> Any:
    """All DAGs of the project, parsed once; needs no database."""
    from airflow.dag_processing.dagbag import DagBag

    sys.path.insert(0, str(ROOT / "dags"))
    return DagBag(dag_folder=str(ROOT / "dags"))


@pytest.fixture(scope="session")
def airflow_database(airflow_env: dict[str, str]) -> None:
    """The metadata database, migrated."""
    from airflow.utils.db import initdb

    initdb()


def connection_json(**fields: Any) -> str:
    """An Airflow connection as an environment variable holds it."""
    return json.dumps(fields)
