"""What the JSON files of a day say: built from receipts alone, so that the same day is always described by the same bytes."""

from __future__ import annotations

import msgspec

from imunizacao.contract import Contract, load_contract
from imunizacao.manifests import (
    CnesVersion,
    ContractVersion,
    Day,
    DayFiles,
    Entry,
    Outcome,
    OutcomeAccount,
    OutcomeFile,
    Pseudonym,
    References,
    RemovedFile,
    Rules,
    TableVersion,
    UfFile,
    Warning,
)
from imunizacao.models import CutFile, PublishInputs
from imunizacao.storage import sha256_of

_SOURCE = "Rede Nacional de Dados em Saúde (RNDS), Ministério da Saúde"


def uf_descriptor(contract: Contract, uf: CutFile, municipios: list[CutFile], day: str) -> dict[str, object]:
    """Frictionless Data Package (v2) of one UF: its own file first, then one resource per municipality with doses."""
    folder = f"uf={uf.uf}/"
    resources = [_resource(uf, f"imunizacao-total-{uf.sg_uf.lower()}", f"Doses aplicadas em {uf.sg_uf}", folder)]
    resources += [
        _resource(file, f"imunizacao-{file.municipio}", f"Doses aplicadas no município {file.municipio}", folder)
        for file in municipios
    ]
    return {
        "$schema": "https://datapackage.org/profiles/2.0/datapackage.json",
        "name": f"imunizacao-total-{uf.sg_uf.lower()}-{day}",
        "title": f"Imunização total, {uf.sg_uf}, entrada na RNDS em {day}",
        "description": contract.description,
        "version": contract.version,
        "sources": [{"title": _SOURCE}],
        "resources": resources,
    }


def _resource(file: CutFile, name: str, title: str, folder: str) -> dict[str, object]:
    resource: dict[str, object] = {
        "name": name,
        "type": "table",
        "path": file.path.removeprefix(folder),
        "title": title,
        "format": "csv",
        "mediatype": "text/csv",
        "encoding": "utf-8",
        "bytes": file.bytes,
        "hash": f"sha256:{file.sha256}",
        "dialect": "dialect.json",
        "schema": "tableschema.json",
        "rnds:rows": file.rows,
    }
    if file.municipio:
        resource["rnds:municipio"] = file.municipio
    return resource


def json_bytes(document: object) -> bytes:
    """Indented JSON with a final line break."""
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def describe_outcome(inputs: PublishInputs) -> Outcome:
    """`outcome.json`: what was not published and why, in counts."""
    account = inputs.account
    return Outcome(
        schema="imunizacao.outcome/1",
        day=inputs.flatten.day,
        account=OutcomeAccount(
            unique=inputs.flatten.documents.unique,
            doses=account.doses,
            published=account.published,
            quarantined=account.quarantined,
            superseded=account.superseded,
            removed=account.removed,
        ),
        quarantined_by_reason=dict(sorted(inputs.validate.quarantined_by_reason.items())),
        quarantined_by_uf={
            uf: dict(sorted(counts.items())) for uf, counts in sorted(inputs.validate.quarantined_by_uf.items())
        },
        warnings=[
            Warning(rule=rule.rule, count=rule.failed)
            for rule in inputs.validate.rules
            if rule.failed and rule.on_fail != "quarantine" and rule.scope == "row"
        ],
    )


def describe_day(inputs: PublishInputs, *, ufs: list[UfFile], removed: bytes, outcome: OutcomeFile) -> Day:
    """`day.json`: the root that names every file by hash."""
    contract = load_contract("dose")
    split = inputs.split
    return Day(
        schema="imunizacao.day/1",
        day=split.day,
        timezone="America/Sao_Paulo",
        partition_by="establishment",
        contract=ContractVersion(name=contract.name, version=contract.version),
        rows=split.rows,
        municipalities=split.municipalities,
        files=DayFiles(
            ufs=ufs,
            removed=RemovedFile(path="removed.csv", sha256=sha256_of(removed), bytes=len(removed), rows=split.removals),
            outcome=outcome,
        ),
        references=describe_references(inputs),
        rules=describe_rules(inputs),
        pseudonym=Pseudonym(method="HMAC-SHA256", key_id=inputs.flatten.pseudonym_key_id),
        neutralised=split.neutralised,
        blanked=split.blanked,
        completeness=split.completeness,
    )


def describe_references(inputs: PublishInputs) -> References:
    """Reference tables that the day was made with."""
    versions = inputs.flatten.references
    return References(
        cnes=CnesVersion(competencia=versions.cnes_competencia, sha256=versions.cnes_sha256),
        ibge=TableVersion(sha256=versions.ibge_sha256),
        pni=TableVersion(sha256=versions.pni_sha256),
    )


def describe_rules(inputs: PublishInputs) -> Rules:
    """Suite that the day was judged by."""
    return Rules(suite="dose", sha256=inputs.validate.suite_sha256)


def find_reason(last: Entry | None, inputs: PublishInputs) -> str:
    """Why the content differs from the revision before, told from what both say of themselves."""
    if last is None:
        return "initial"
    if last.reconciliation is not None and last.reconciliation.verdict == "gap":
        return "restore"
    if last.source is not None and last.source.unique != inputs.flatten.documents.unique:
        return "late-arrivals" if inputs.flatten.documents.unique > last.source.unique else "deletion"
    if last.rules is not None and last.rules != describe_rules(inputs):
        return "rules"
    if last.references is not None and last.references != describe_references(inputs):
        return "references"
    if last.code_version != inputs.split.code_version:
        return "schema"
    return "correction"
