"""The connection type `fhirmirror`: what Airflow shows in Admin → Connections and how it tests one.

Airflow calls `get_provider_info` in every component and before tasks: nothing may be imported here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

PACKAGE: Final = "imunizacao-fhir-mirror"
"""Name of the distribution in `include/imunizacao_fhir_mirror-*.dist-info`, where Airflow finds this module."""
CONNECTION_TYPE: Final = "fhirmirror"
HOOK_NAME: Final = "FHIR mirror (RNDS)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One extra of the connection, as the form shows it."""

    name: str
    title: str
    description: str
    kind: str = "string"
    """Type of JSON Schema."""
    choices: tuple[str, ...] = ()
    form: str = ""
    """`password` for what must not be shown, `multiline` for what has lines."""
    least: float | None = None

    def widget(self) -> dict[str, Any]:
        """As Airflow's provider information describes a field."""
        schema: dict[str, Any] = {"type": [self.kind, "null"]}
        if self.choices:
            schema["enum"] = list(self.choices)
        if self.form:
            schema["format"] = self.form
        if self.least is not None:
            schema["minimum"] = self.least
        return {"label": self.title, "description": self.description, "schema": schema}


FIELDS: Final = (
    Field(
        name="auth",
        title="Autenticação",
        description="Vazio: none. basic usa login e senha.",
        choices=("none", "basic", "oauth2", "smart", "rnds"),
    ),
    Field(
        name="token_url",
        title="Endereço do serviço de token",
        description="oauth2, smart, rnds. Em smart, vazio: o que o espelho indica.",
    ),
    Field(
        name="requester_cns",
        title="CNS do solicitante",
        description="rnds: profissional habilitado nesta credencial, 15 dígitos.",
        form="password",
    ),
    Field(
        name="client_certificate_file",
        title="Arquivo do certificado",
        description="Certificado de cliente (A1): PFX ou PEM, caminho no worker.",
    ),
    Field(
        name="client_certificate",
        title="Certificado",
        description="O mesmo em texto: base64 do arquivo.",
        form="password",
    ),
    Field(
        name="client_certificate_passphrase",
        title="Senha do certificado",
        description="Do PFX ou da chave.",
        form="password",
    ),
    Field(
        name="client_key_file",
        title="Arquivo da chave do certificado",
        description="PEM, se o arquivo do certificado não a contém.",
    ),
    Field(
        name="client_private_key",
        title="Chave do certificado",
        description="A mesma em texto: base64 do arquivo.",
        form="password",
    ),
    Field(name="ca_file", title="Arquivo de autoridades", description="PEM de autoridades aceitas além das do worker."),
    Field(name="client_id", title="Client ID", description="oauth2, smart: nome com que estamos registrados."),
    Field(name="client_secret", title="Client secret", description="oauth2.", form="password"),
    Field(
        name="token_endpoint_auth",
        title="Envio de client ID e secret",
        description="oauth2. Vazio: basic, no cabeçalho.",
        choices=("basic", "form"),
    ),
    Field(name="scope", title="Escopo", description="oauth2, smart. Em smart, vazio: system/*.rs."),
    Field(
        name="signing_key_file",
        title="Arquivo da chave de assinatura",
        description="smart: PEM ou JWK, caminho no worker.",
    ),
    Field(
        name="signing_private_key",
        title="Chave de assinatura",
        description="smart: a mesma em texto: JWK, ou base64 do arquivo.",
        form="password",
    ),
    Field(name="signing_key_passphrase", title="Senha da chave de assinatura", description="smart.", form="password"),
    Field(name="signing_key_id", title="Identificador da chave (kid)", description="smart. Vazio: o da JWK."),
    Field(
        name="way",
        title="Modo de extração",
        description="Vazio: auto, o primeiro que o espelho oferece.",
        choices=("auto", "documents", "resources", "export"),
    ),
    Field(
        name="page_size",
        title="Documentos por página",
        description="De 1 a 10000. Vazio: 500.",
        kind="integer",
        least=1,
    ),
    Field(
        name="max_connections",
        title="Conexões simultâneas",
        description="De 1 a 64, por dia extraído. Vazio: 4.",
        kind="integer",
        least=1,
    ),
    Field(
        name="requests_per_second",
        title="Requisições por segundo",
        description="Limite nosso. Vazio ou 0: sem limite.",
        kind="number",
        least=0,
    ),
    Field(
        name="slice_cap",
        title="Documentos por fatia de tempo",
        description="Uma fatia com mais do que isto é cortada. Vazio: 50000.",
        kind="integer",
        least=1,
    ),
    Field(
        name="connect_timeout",
        title="Segundos para conectar",
        description="Vazio: 10.",
        kind="number",
        least=0,
    ),
    Field(
        name="read_timeout",
        title="Segundos sem resposta",
        description="Sem nenhum byte. Vazio: 60.",
        kind="number",
        least=0,
    ),
    Field(
        name="retry_budget",
        title="Segundos de novas tentativas",
        description="Por sequência de requisições. Vazio: 1800.",
        kind="number",
        least=0,
    ),
    Field(
        name="export_deadline",
        title="Prazo de uma exportação (segundos)",
        description="Bulk Data: do pedido ao manifesto. Vazio: 21600.",
        kind="number",
        least=0,
    ),
    Field(
        name="freshness_deadline_hours",
        title="Prazo de espera (horas)",
        description="Quanto esperar que o espelho chegue ao fim do dia. Vazio: 6.",
        kind="number",
        least=0,
    ),
)
"""The extras of the connection, in the order of the form. What reads them is `imunizacao_airflow/connections.py`."""


def get_provider_info() -> dict[str, Any]:
    """Describe the connection type to Airflow (entry point `apache_airflow_provider`)."""
    return {
        "package-name": PACKAGE,
        "name": "Imunização",
        "description": "Connection to a FHIR mirror of Brazil's RNDS.",
        "connection-types": [
            {
                "connection-type": CONNECTION_TYPE,
                "hook-class-name": "imunizacao_airflow.hooks.FhirMirrorHook",
                "hook-name": HOOK_NAME,
                "ui-field-behaviour": {
                    "hidden-fields": ["schema"],
                    # The port is part of the address. It is here because the Test button of Airflow 3.3.2 refuses a connection that
                    # has none; gone with https://github.com/apache/airflow/pull/73298.
                    "relabeling": {
                        "host": "Endereço FHIR",
                        "port": "Porta (só para o teste)",
                        "login": "Login",
                        "password": "Senha",
                    },
                    "placeholders": {"host": "https://espelho.example.org/fhir/r4", "port": "443"},
                },
                "conn-fields": {field.name: field.widget() for field in FIELDS},
            }
        ],
    }
