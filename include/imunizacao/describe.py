"""What the JSON files of a day say: built from receipts alone, so that the same day is always described by the same bytes."""

from __future__ import annotations

import csv

import msgspec

from imunizacao.contract import Contract
from imunizacao.decision import Decision
from imunizacao.ksafe import PublicCount, SafeReasons, mask_count, mask_reasons
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
    PublishDecision,
    References,
    RemovedFile,
    Residence,
    Rules,
    TableVersion,
    UfFile,
    Warning,
)
from imunizacao.models import CutFile, PublishInputs, RuleResult
from imunizacao.paths import REFERENCE
from imunizacao.storage import sha256_of

_SOURCE = "Rede Nacional de Dados em Saúde (RNDS), Ministério da Saúde"


def uf_descriptor(
    contract: Contract,
    uf: CutFile,
    municipios: list[CutFile],
    day: str,
    *,
    residents: CutFile | None,
    parts: dict[str, bytes],
) -> dict[str, object]:
    """Frictionless Data Package (v2) of one UF: its own file, one resource per municipality with doses, its residents at the end.

    `parts` are the files that the resources refer to (schema, dialect): their hashes stand in `rnds:parts`.
    """
    folder, operation = f"uf={uf.uf}/", "nominal" if contract.profile == "nominal" else "total"
    resources = [_resource(uf, f"imunizacao-{operation}-{uf.sg_uf.lower()}", f"Doses aplicadas em {uf.sg_uf}", folder)]
    resources += [
        _resource(file, f"imunizacao-{file.municipio}", f"Doses aplicadas no município {file.municipio}", folder)
        for file in municipios
    ]
    if residents is not None:
        title = f"Doses de residentes em {uf.sg_uf}, onde quer que aplicadas"
        resources.append(_resource(residents, f"imunizacao-residentes-{uf.sg_uf.lower()}", title, folder))
        resources[-1]["rnds:partitionBy"] = "residence"
    return {
        "$schema": "https://datapackage.org/profiles/2.0/datapackage.json",
        "name": f"imunizacao-{operation}-{uf.sg_uf.lower()}-{day}",
        "title": f"Imunização {operation}, {uf.sg_uf}, entrada na RNDS em {day}",
        "description": contract.description,
        "version": contract.version,
        "sources": [{"title": _SOURCE}],
        "rnds:parts": [
            {"path": name, "bytes": len(part), "hash": f"sha256:{sha256_of(part)}"} for name, part in parts.items()
        ],
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


def describes_the_same(name: str, one: bytes, other: bytes) -> bool:
    """Whether two versions of a manifest say the same of the CSVs: files with size, hash and rows; names of the columns; the dialect;
    published doses. Texts and what was not published may differ."""
    try:
        return _facts(name, one) == _facts(name, other)
    except (msgspec.MsgspecError, LookupError, TypeError, AttributeError):
        return False


def _facts(name: str, body: bytes) -> object:
    document = msgspec.json.decode(body)
    match name.rpartition("/")[2]:
        case "datapackage.json":
            kept = ("path", "bytes", "hash", "dialect", "schema", "rnds:rows", "rnds:municipio", "rnds:partitionBy")
            files = [{key: resource.get(key) for key in kept} for resource in document["resources"]]
            return files, document["rnds:parts"]
        case "tableschema.json":
            return [field["name"] for field in document["fields"]]
        case "outcome.json":
            return document["schema"], document["day"], document["account"]["published"]
    return document


def describe_outcome(inputs: PublishInputs) -> Outcome:
    """`outcome.json`: what was not published and why, in counts that single nobody out."""
    account, quarantined = inputs.account, describe_quarantined(inputs)
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
        quarantined_by_reason=quarantined.totals,
        quarantined_by_uf=quarantined.by_place,
        warnings=[_warning(rule) for rule in inputs.validate.rules if _is_warning(rule)],
    )


def describe_quarantined(inputs: PublishInputs) -> SafeReasons:
    """Quarantined doses by UF and reason, and by reason, as readers may see them."""
    return mask_reasons(
        inputs.validate.quarantined_by_uf, inputs.validate.quarantined_by_reason, places=("00", *_uf_codes())
    )


def _uf_codes() -> list[str]:
    with (REFERENCE / "ibge" / "ibge_ufs.csv").open(encoding="utf-8", newline="") as file:
        return [row["co_uf"] for row in csv.DictReader(file, strict=True)]


def _is_warning(rule: RuleResult) -> bool:
    """Published doses that broke a rule, and what the day as a whole broke, but for what earlier days say of it."""
    if rule.compares_history:
        return False
    if rule.scope == "row":
        return rule.failed > 0 and (rule.on_fail != "quarantine" or not rule.success)
    return not rule.success


def _warning(rule: RuleResult) -> Warning:
    """Without what a rule about the day found: a share of a small day would give away a count that is hidden elsewhere."""
    return Warning(
        rule=rule.rule,
        count=_public_count(rule),
        scope=rule.scope,
        note=None if rule.success else rule.note,
    )


def _public_count(rule: RuleResult) -> PublicCount:
    """Doses that broke a rule, masked where they are few; of a rule about the day as a whole, whether it was broken."""
    about_the_day = rule.scope == "day" and rule.checked <= 1
    return rule.failed if about_the_day else mask_count(rule.failed)


def describe_decision(decision: Decision | None) -> PublishDecision | None:
    """What readers are told of a decision: not who took it."""
    if decision is None:
        return None
    return PublishDecision(choice=decision.choice, reason=decision.reason, rules=decision.rules)


def describe_day(
    inputs: PublishInputs, *, contract: Contract, ufs: list[UfFile], removed: bytes, outcome: OutcomeFile
) -> Day:
    """`day.json`: the root that names every file by hash."""
    split = inputs.split
    return Day(
        schema="imunizacao.day/1",
        day=split.day,
        timezone="America/Sao_Paulo",
        partition_by="establishment",
        contract=ContractVersion(name=contract.name, version=contract.version),
        rows=split.rows,
        municipalities=split.municipalities,
        residence=Residence(known=split.residence_known, unknown=split.residence_unknown),
        files=DayFiles(
            ufs=ufs,
            removed=RemovedFile(path="removed.csv", sha256=sha256_of(removed), bytes=len(removed), rows=split.removals),
            outcome=outcome,
        ),
        references=describe_references(inputs),
        rules=describe_rules(inputs),
        pseudonym=describe_pseudonym(inputs),
        neutralised=split.neutralised,
        blanked=split.blanked,
        completeness=split.completeness,
    )


def describe_references(inputs: PublishInputs) -> References:
    """Reference tables that the day was made with."""
    versions = inputs.flatten.references
    return References(
        cnes=CnesVersion(competencia=versions.cnes_competencia, sha256=versions.cnes_sha256),
        ibge=TableVersion(sha256=versions.ibge_sha256, version=versions.ibge_version or None),
        pni=TableVersion(sha256=versions.pni_sha256, version=versions.pni_version or None),
    )


def describe_rules(inputs: PublishInputs) -> Rules:
    """Suite that the day was judged by."""
    return Rules(suite="dose", sha256=inputs.validate.suite_sha256)


def describe_pseudonym(inputs: PublishInputs) -> Pseudonym:
    """Keys that the pseudonyms of the day were made with."""
    return Pseudonym(
        method="HMAC-SHA256",
        key_id=inputs.flatten.pseudonym_key_id,
        previous_key_id=inputs.flatten.pseudonym_previous_key_id or None,
    )


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
    if last.pseudonym is not None and last.pseudonym != describe_pseudonym(inputs):
        return "pseudonym"
    if last.code_version != inputs.split.code_version:
        return "schema"
    return "correction"
