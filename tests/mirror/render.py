"""JSON of the documents, written as text: 3 to 4 KB each, tens of thousands per second.

The order of members is that of served documents. Only values that people typed are escaped; all others are made of characters
that JSON takes as they are.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

from tests.mirror.calendar import date_text
from tests.mirror.cnes import Establishment
from tests.mirror.content import Content, Country, Dose, Kind
from tests.mirror.identifiers import SUFFIX
from tests.mirror.persons import Person

DOCUMENT_BASE: Final = "https://mirror.example.org/fhir/r4"
"""Base of the addresses inside documents. A mirror behind a proxy keeps its own; here it also keeps bytes equal on any port."""

_STRUCTURE: Final = "http://www.saude.gov.br/fhir/r4/StructureDefinition/"
_NAMING: Final = "http://www.saude.gov.br/fhir/r4/NamingSystem/"
_REGISTRY: Final = "http://rnds.saude.gov.br/fhir/r4"
_PERSON: Final = f"{_STRUCTURE}BRIndividuo-1.0"
_RACES: Final = ("03", "01", "03", "01", "02", "03", "01", "99", "04", "05")
_NARRATIVE: Final = json.dumps(
    '<div xmlns="http://www.w3.org/1999/xhtml"><h3>Registro de imunização</h3><table class="grid">'
    + "".join(f"<tr><td>campo {n}</td><td>valor &amp; texto {n}</td></tr>" for n in range(40))
    + "</table></div>",
    ensure_ascii=False,
)


@dataclass(frozen=True, slots=True)
class Envelope:
    """Identity and state of one version of a document."""

    uuid: str
    last_updated: str
    timestamp: str
    status: str
    version: str
    """versionId; empty = not stated."""
    replaces: str
    """Id of the document that it replaces; empty = none."""

    @property
    def id(self) -> str:
        """Id of the Bundle."""
        return self.uuid + SUFFIX


def render_document(country: Country, content: Content, envelope: Envelope, base: str = DOCUMENT_BASE) -> str:
    """JSON text of the Bundle, without blanks."""
    updated = envelope.last_updated
    version = f'"versionId":"{envelope.version}",' if envelope.version else ""
    others = [_immunization(content, dose, updated, base) for dose in content.doses]
    if content.condition:
        others.append(_condition(content, envelope, base))
    if content.residence:
        others.append(_patient(country, content, base))
    if content.organization:
        others.append(organization_entry(country, country.establishments[content.establishment], base))
    if content.shuffled_entries and len(others) > 1:
        others.reverse()
    entries = ",".join(others)
    return (
        f'{{"resourceType":"Bundle","id":"{envelope.uuid}{SUFFIX}","meta":{{{version}"lastUpdated":"{updated}"}},'
        f'"identifier":{{"system":"{_NAMING}BRRNDS-{content.requester}","value":"{content.local_id}"}},'
        f'"type":"document","timestamp":"{envelope.timestamp}",'
        f'"entry":[{_composition(content, envelope, base)},{entries}]}}'
    )


def render_entry(envelope_id: str, document: str, base: str = DOCUMENT_BASE) -> str:
    """JSON text of the search entry that carries a document."""
    return f'{{"fullUrl":"{base}/Bundle/{envelope_id}","resource":{document},"search":{{"mode":"match"}}}}'


def _composition(content: Content, envelope: Envelope, base: str) -> str:
    kind = content.kind
    extension = category = ""
    if kind is Kind.LOAD:
        category = f'"category":[{{"coding":[{{"system":"{content.systems}BRModalidadeAssistencial","code":"01"}}]}}],'
        extension = (
            f'"extension":[{{"url":"{_STRUCTURE}BROperadorDigitador-1.0","valueReference":{{"identifier":'
            f'{{"system":"{_STRUCTURE}BRProfissional-1.0","value":"{content.doses[0].performer}"}}}}}}],'
        )
    unknown = '"campoNovo":{"versao":2},' if content.unknown_field else ""
    author = f',"value":"{content.cnes}"' if content.cnes else ""
    relates = ""
    if envelope.replaces:
        relates = (
            f'"relatesTo":[{{"code":"replaces","targetReference":{{"reference":"Composition/{envelope.replaces}"}}}}],'
        )
    references = ",".join(f'{{"reference":"Immunization/{dose.uuid}"}}' for dose in content.doses)
    return (
        f'{{"fullUrl":"{base}/Composition/{envelope.uuid}","resource":{{"resourceType":"Composition",'
        f'"id":"{envelope.uuid}","meta":{{"lastUpdated":"{envelope.last_updated}","profile":'
        f'["{_STRUCTURE}{kind.composition}"]}},{extension}"status":"{envelope.status}",'
        f'"type":{{"coding":[{{"system":"{content.systems}BRTipoDocumento","code":"RIA"}}]}},{category}{unknown}'
        f'"subject":{{"identifier":{{"system":"{_PERSON}","value":"{content.patient_id}"}}}},'
        f'"date":"{content.registered}","author":[{{"identifier":'
        f'{{"system":"{_STRUCTURE}BREstabelecimentoSaude-1.0"{author}}}}}],"title":"{kind.title}",'
        f'{relates}"section":[{{"entry":[{references}]}}]}}}}'
    )


def _coded(systems: str, system: str, code: str) -> str:
    return f'{{"coding":[{{"system":"{systems}{system}","code":"{code}"}}]}}'


def _immunization(content: Content, dose: Dose, updated: str, base: str) -> str:
    systems = content.systems
    head = f'"text":{{"status":"generated","div":{_NARRATIVE}}},' if content.narrative else ""
    extensions = _extensions(content, dose)
    if extensions:
        head += f'"extension":[{extensions}],'
    vaccine = (
        f'"vaccineCode":{{"coding":[{{"system":"{systems}BRImunobiologico","code":"{dose.vaccine}"}}]}},'
        if dose.vaccine
        else ""
    )
    function = f'"function":{_coded(systems, "BRCBO", dose.cbo)},' if dose.cbo else ""
    reason = f'"reasonReference":[{{"reference":"Condition/{_condition_id(dose)}"}}],' if content.condition else ""
    strategy = ""
    if dose.strategy:
        strategy = (
            f'"extension":[{{"url":"{_STRUCTURE}BREstrategiaVacinacao-1.0","valueCodeableConcept":'
            f'{{"coding":[{{"system":"{systems}BREstrategiaVacinacao","code":"{dose.strategy}"}}]}}}}],'
        )
    return (
        f'{{"fullUrl":"{base}/Immunization/{dose.uuid}","resource":{{"resourceType":"Immunization","id":"{dose.uuid}",'
        f'"meta":{{"lastUpdated":"{updated}","profile":["{_STRUCTURE}{content.kind.immunization}"]}},'
        f'{head}"status":"completed",{vaccine}'
        f'"patient":{{"identifier":{{"system":"{_PERSON}","value":"{content.patient_id}"}}}},'
        f'"occurrenceDateTime":"{dose.occurrence}",{_middle(systems, dose)}'
        f'"performer":[{{{function}"actor":{{"reference":"{content.slash}Practitioner/{dose.performer}"}}}}],'
        f'{reason}"protocolApplied":[{{{strategy}"doseNumberString":"{dose.dose}"}}]}}}}'
    )


def _middle(systems: str, dose: Dose) -> str:
    """The elements between the date and the performer, each present or absent."""
    parts = []
    if dose.primary_source:
        parts.append(f'"primarySource":{dose.primary_source},')
    if dose.origin:
        parts.append(f'"reportOrigin":{_coded(systems, "BRRegistroOrigem", dose.origin)},')
    if dose.country:
        parts.append(f'"location":{{"identifier":{{"system":"{systems}BRPais","value":"{dose.country}"}}}},')
    if dose.maker:
        parts.append(f'"manufacturer":{{"identifier":{{"system":"{systems}BRFabricantePNI","value":"{dose.maker}"}}}},')
    elif dose.written_maker[1]:
        reference, display = dose.written_maker
        parts.append(f'"manufacturer":{{"reference":"{reference}","display":"{display}"}},')
    if dose.lot:
        parts.append(f'"lotNumber":{dose.lot},')
    if dose.expiration:
        parts.append(f'"expirationDate":"{dose.expiration}",')
    if dose.site:
        parts.append(
            f'"site":{{"coding":[{{"system":"{systems}BRLocalAplicacao","code":"{dose.site}"}}]}},'
            f'"route":{{"coding":[{{"system":"{systems}BRViaAdministracao","code":"{dose.route}"}}]}},'
        )
    return "".join(parts)


def _extensions(content: Content, dose: Dose) -> str:
    systems = content.systems
    parts = []
    if dose.group:
        parts.append(
            f'{{"url":"{_STRUCTURE}BRGrupoAtendimento","valueCodeableConcept":'
            f'{{"coding":[{{"system":"{systems}BRGrupoAtendimento","code":"{dose.group}"}}]}}}}'
        )
    if dose.maternal:
        parts.append(
            f'{{"url":"{_STRUCTURE}BRCondicaoMaternal","valueCodeableConcept":'
            f'{{"coding":[{{"system":"{systems}BRCondicaoMaternal","code":"{dose.maternal}"}}]}}}}'
        )
    if dose.leprosy:
        parts.append(f'{{"url":"{_STRUCTURE}BRContatoHanseniase","valueBoolean":{dose.leprosy}}}')
    if content.kind is Kind.LOAD:
        coded = _coded(systems, "BRSituacaoCondicaoIndividuo", "7")
        parts.append(f'{{"url":"{_STRUCTURE}BRSituacaoCondicaoIndividuo-1.0","valueCodeableConcept":{coded}}}')
    if content.shuffled_extensions:
        parts.reverse()
    if content.unknown_field:
        parts.insert(0, f'{{"url":"{DOCUMENT_BASE}/StructureDefinition/CampoNovo-9.9","valueString":"novo"}}')
    return ",".join(parts)


def _condition_id(dose: Dose) -> str:
    return f"c{dose.uuid[1:]}"


def _condition(content: Content, envelope: Envelope, base: str) -> str:
    identity = _condition_id(content.doses[0])
    onset = content.registered[:10]
    return (
        f'{{"fullUrl":"{base}/Condition/{identity}","resource":{{"resourceType":"Condition","id":"{identity}",'
        f'"meta":{{"lastUpdated":"{envelope.last_updated}","profile":["{_STRUCTURE}BRCID10Avaliado-1.0"]}},'
        f'"clinicalStatus":{{"coding":[{{"system":"http://terminology.hl7.org/CodeSystem/condition-clinical",'
        f'"code":"active"}}]}},"category":[{_coded(content.systems, "BRCategoriaDiagnostico", "01")}],'
        f'"code":{_coded(content.systems, "BRCID10", content.condition)},'
        f'"subject":{{"identifier":{{"system":"{_PERSON}","value":"{content.patient_id}"}}}},'
        f'"onsetDateTime":"{onset}"}}}}'
    )


def _patient(country: Country, content: Content, base: str) -> str:
    """A Patient as a mirror with the national registry adds it: an assumption, the RNDS document has none."""
    person = content.person
    cns = person.cns
    code = content.residence
    city = country.names.get(code, "MUNICIPIO IGNORADO")
    state = country.ufs.get(code, "XX")
    return (
        f'{{"fullUrl":"{base}/Patient/{cns}","resource":{{"resourceType":"Patient","id":"{cns}",'
        f'"meta":{{"lastUpdated":"2025-01-15T10:00:00.000-03:00","profile":'
        f'["{_REGISTRY}/StructureDefinition/rnds-patient-1.0"]}},"extension":[{_race(person)}],'
        f'"identifier":[{{"system":"{_REGISTRY}/NamingSystem/cpf","value":"{person.cpf}"}},'
        f'{{"use":"official","system":"{_REGISTRY}/NamingSystem/cns","value":"{cns}"}}],"active":true,'
        f'"name":[{{"use":"official","text":"{person.name}"}}],"gender":"{"female" if person.female else "male"}",'
        f'"birthDate":"{date_text(person.birth)}","address":[{{"use":"home","type":"physical",'
        f'"line":["RUA FICTICIA","{person.serial}"],"city":"{city}",'
        f'"_city":{{"extension":[{{"url":"{DOCUMENT_BASE}/StructureDefinition/codigo-ibge","valueString":"{code}"}}]}},'
        f'"district":"BAIRRO FICTICIO","state":"{state}","postalCode":"{(person.serial * 9973) % 100000:05d}000",'
        f'"country":"BRASIL"}}]}}}}'
    )


def _race(person: Person) -> str:
    code = _RACES[person.number // 7 % 10]
    ethnicity = ""
    if code == "05":
        ethnicity = (
            f',{{"url":"indigenousEthnicity","valueCodeableConcept":'
            f"{_coded('http://www.saude.gov.br/fhir/r4/CodeSystem/', 'BREtniaIndigena', '0003')}}}"
        )
    coded = _coded("http://www.saude.gov.br/fhir/r4/CodeSystem/", "BRRacaCor", code)
    return (
        f'{{"extension":[{{"url":"race","valueCodeableConcept":{coded}}}{ethnicity}],'
        f'"url":"{_STRUCTURE}BRRacaCorEtnia-1.0"}}'
    )


def organization_entry(country: Country, place: Establishment, base: str) -> str:
    """An Organization as a mirror with the registry of establishments adds it."""
    code = place.municipio
    return (
        f'{{"fullUrl":"{base}/Organization/{place.cnes}","resource":{{"resourceType":"Organization","id":"{place.cnes}",'
        f'"meta":{{"lastUpdated":"2026-02-25T00:00:00.000-03:00","profile":'
        f'["{_REGISTRY}/StructureDefinition/rnds-organization-1.0"]}},'
        f'"identifier":[{{"system":"{_REGISTRY}/NamingSystem/cnes","value":"{place.cnes}"}}],"active":true,'
        f'"type":[{{"coding":[{{"system":"{_REGISTRY}/CodeSystem/rnds-cnestype-1.0","code":"{place.unit_type}"}}]}}],'
        f'"name":{json.dumps(place.name)},"address":[{{"line":["AVENIDA FICTICIA","0"],"city":"{country.names[code]}",'
        f'"district":"BAIRRO FICTICIO","state":"{country.ufs[code]}","postalCode":"00000000","country":"BRASIL"}}]}}}}'
    )
