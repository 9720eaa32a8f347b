"""The whole product on one machine, without a container engine.

Real servers as ordinary processes: PostgreSQL and SeaweedFS from their wheels, the mirror simulator and Airflow. Each is
a class with `start`, `stop` and `is_running` that owns one folder, so the command `python -m imunizacao_local` and the
tests use the same code. Nothing here imports Airflow or the pipeline.
"""

from imunizacao_local.airflow_server import AirflowServer
from imunizacao_local.errors import LocalError
from imunizacao_local.mirror import MirrorServer, MirrorSettings
from imunizacao_local.ports import free_ports
from imunizacao_local.postgres import PostgresServer
from imunizacao_local.seaweed import S3Credentials, SeaweedPorts, SeaweedServer

__all__ = [
    "AirflowServer",
    "LocalError",
    "MirrorServer",
    "MirrorSettings",
    "PostgresServer",
    "S3Credentials",
    "SeaweedPorts",
    "SeaweedServer",
    "free_ports",
]
