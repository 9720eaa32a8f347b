"""The hook of connection type `fhirmirror`: what the Test button of a connection does."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from airflow.sdk import BaseHook

from imunizacao.errors import PipelineError
from imunizacao_airflow.connections import MIRROR, mirror_from_connection
from imunizacao_airflow.provider import CONNECTION_TYPE, HOOK_NAME

if TYPE_CHECKING:
    from imunizacao.fhir import Transport
    from imunizacao.settings import MirrorSettings

_RETRY_BUDGET: Final = 15.0
"""Seconds: a person looks at the button. Each answer may take `_READ_TIMEOUT` on top."""
_READ_TIMEOUT: Final = 20.0
_EXPORTED: Final = timedelta(minutes=5)
"""The order is taken back at once; should the mirror carry it out, it is small."""


class FhirMirrorHook(BaseHook):
    """Settings of a FHIR mirror from an Airflow connection, and a test that asks the mirror itself."""

    conn_name_attr = "mirror_conn_id"
    default_conn_name = MIRROR
    conn_type = CONNECTION_TYPE
    hook_name = HOOK_NAME

    def __init__(self, mirror_conn_id: str = MIRROR, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.mirror_conn_id = mirror_conn_id

    def get_conn(self) -> MirrorSettings:
        """Read the connection, refusing what cannot work."""
        return mirror_from_connection(self.get_connection(self.mirror_conn_id))

    def test_connection(self) -> tuple[bool, str]:
        """Ask for the CapabilityStatement without identification, then for one count with it; say what came."""
        try:
            settings = replace(self.get_conn(), retry_budget=_RETRY_BUDGET, read_timeout=_READ_TIMEOUT)
            return True, asyncio.run(probe(settings)).sentence
        except PipelineError as error:
            return False, f"{type(error).__name__}: {error}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """What a mirror answered."""

    server: str
    """Software and FHIR version, as its CapabilityStatement names them."""
    auth: str
    last_day: int | None
    """Document versions of the 24 hours before; None where the mirror cannot count, and has accepted an export."""

    @property
    def sentence(self) -> str:
        """For the person who pressed the button."""
        seen = "não tem busca, e aceitou um pedido de exportação ($export)"
        if self.last_day is not None:
            seen = f"{self.last_day:,}".replace(",", ".") + " documentos entraram nas últimas 24 horas"
        return f"O espelho responde ({self.server}) e aceita a autenticação {self.auth}; {seen}."


async def probe(settings: MirrorSettings, *, now: datetime | None = None) -> Probed:
    """Identify ourselves, ask what the mirror is, and count, or order an export where it cannot count. Raises the errors of the
    transport, which say what to do.
    """
    from imunizacao.fhir import ExportSource, Transport, Window, open_source
    from imunizacao.fhir.export import ExportClient

    async with Transport(settings) as transport:
        server = await _server(transport)
    moment = (now or datetime.now(UTC)).replace(microsecond=0)
    last_day = Window(start=moment - timedelta(days=1), end=moment)
    async with open_source(settings) as source:
        if not isinstance(source, ExportSource):
            count: int | None = await source.count_since(last_day.start)
        elif (count := await source.total(last_day)) is None:
            client = ExportClient(source.transport)
            _, status_url = await client.start(Window(start=moment - _EXPORTED, end=moment))
            await client.clean_up(status_url)
        return Probed(server=server, auth=settings.auth, last_day=count)


async def _server(transport: Transport) -> str:
    """Name of the software. A mirror without CapabilityStatement is a mirror all the same: the count decides."""
    from imunizacao.fhir.capability import read_capability

    capability = await read_capability(transport)
    if capability.statement is None:
        return f"sem CapabilityStatement: {capability.problem}"
    statement = capability.statement
    return f"{statement.software or 'servidor sem nome'}, FHIR {statement.fhir_version or 'sem versão'}"
