"""`v1/catalog.jsonld`: the catalog in DCAT 3, with the fields that dados.gov.br asks for, one dataset per operation.

Derived from `catalog.json` and from `include/contract/catalogo.json`, which says who publishes and under which categories of the VCGE: an
installation of another body changes that file. Addresses are relative to the document itself, because nobody here knows under which
address readers see the bucket. No clock: it changes when operations, contract, dictionary or the first month do, not from day to day.

Sources: https://www.w3.org/TR/vocab-dcat-3/; DCAT-AP 3.0; INDA's standard of metadata, https://dados.gov.br/pagina/padrao-de-metadados.
"""

from __future__ import annotations

import json
from typing import Any, Final

import msgspec

from imunizacao.errors import ContractViolation
from imunizacao.manifests import CATALOG_KEY, DCAT_KEY, Catalog, Operation, decode
from imunizacao.paths import CONTRACT
from imunizacao.storage import ObjectStore, swap

_CONTEXT: Final = {
    "dcat": "http://www.w3.org/ns/dcat#",
    "dct": "http://purl.org/dc/terms/",
    "foaf": "http://xmlns.com/foaf/0.1/",
    "skos": "http://www.w3.org/2004/02/skos/core#",
    "xsd": "http://www.w3.org/2001/XMLSchema#",
}
_EU: Final = "http://publications.europa.eu/resource/authority/"
_ROOT: Final = "v1/"
"""The document lies here; what it names is relative to this."""
_HOW: Final = (
    "Um arquivo por dia de referência. O caminho até ele: catalog.json, índice do mês, head.json do dia, day.json, descritor da UF. Formato, "
    "conferência e revisões: contrato de publicação."
)


class _Publisher(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    acronym: str
    homepage: str


class _Category(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    label: str


class _Institution(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`include/contract/catalogo.json`."""

    title: str
    description: str
    publisher: _Publisher
    origin: str
    vcge: list[_Category]
    keywords: list[str]


def update_dcat(public: ObjectStore) -> None:
    """Bring the description up to date with the catalog, which is read inside the swap; without a catalog there is nothing to describe."""

    def decide(body: bytes | None) -> tuple[bytes | None, None]:
        stored = public.get_or_none(CATALOG_KEY)
        return (describe_catalog(decode(Catalog, stored.body, CATALOG_KEY)) if stored is not None else None), None

    swap(public, DCAT_KEY, decide, content_type="application/ld+json")


def describe_catalog(catalog: Catalog) -> bytes:
    """The document. Same operations, contract, dictionary and first month, same bytes."""
    institution = _read_institution()
    document = {
        "@context": _CONTEXT,
        "@id": "#catalogo",
        "@type": "dcat:Catalog",
        "dct:title": _pt(institution.title),
        "dct:description": _pt(institution.description),
        **_common(institution),
        "dcat:themeTaxonomy": {"@id": "http://vocab.e.gov.br/id/governo#esquema"},
        "dcat:dataset": [_dataset(catalog, operation, institution) for operation in catalog.operations],
    }
    return json.dumps(document, ensure_ascii=False, indent=2).encode() + b"\n"


def _dataset(catalog: Catalog, operation: Operation, institution: _Institution) -> dict[str, Any]:
    what = operation.description or operation.title
    dataset: dict[str, Any] = {
        "@id": f"#{operation.slug}",
        "@type": "dcat:Dataset",
        "dct:identifier": operation.slug,
        "dct:title": _pt(operation.title),
        "dct:description": _pt(f"{what} {institution.description}"),
        **_common(institution),
        "dct:creator": {"@id": "#orgao"},
        "dcat:keyword": [_pt(word) for word in (*institution.keywords, operation.sg_uf)],
        "dcat:theme": [
            {"@id": category.id, "@type": "skos:Concept", "skos:prefLabel": _pt(category.label)}
            for category in institution.vcge
        ],
        "dct:spatial": {
            "@type": "dct:Location",
            "dct:identifier": operation.uf,
            "skos:prefLabel": _pt(operation.sg_uf),
        },
        "dct:accrualPeriodicity": {"@id": _EU + "frequency/DAILY"},
        "dct:accessRights": {"@id": _EU + "access-right/RESTRICTED"},
        "dcat:version": catalog.contract.version,
        "dcat:distribution": {
            "@id": f"#{operation.slug}-csv",
            "@type": "dcat:Distribution",
            "dct:title": _pt(f"{operation.title}: arquivos CSV diários"),
            "dct:description": _pt(_HOW),
            "dct:format": {"@id": _EU + "file-type/CSV"},
            "dcat:mediaType": {"@id": "https://www.iana.org/assignments/media-types/text/csv"},
            "dcat:accessURL": {"@id": CATALOG_KEY.removeprefix(_ROOT)},
            "dct:conformsTo": {"@id": "https://datapackage.org/profiles/2.0/datapackage.json"},
        },
    }
    if catalog.months:
        first = {"@type": "xsd:date", "@value": f"{catalog.months[0].month}-01"}
        dataset["dct:temporal"] = {"@type": "dct:PeriodOfTime", "dcat:startDate": first}
    if catalog.dictionary is not None:
        dataset["foaf:page"] = {"@id": catalog.dictionary.path.removeprefix(_ROOT)}
    return dataset


def _common(institution: _Institution) -> dict[str, Any]:
    publisher = institution.publisher
    return {
        "dct:publisher": {
            "@id": "#orgao",
            "@type": "foaf:Organization",
            "foaf:name": _pt(f"{publisher.name} ({publisher.acronym})"),
            "foaf:homepage": {"@id": publisher.homepage},
        },
        "dct:language": {"@id": _EU + "language/POR"},
        "dcat:landingPage": {"@id": institution.origin},
    }


def _pt(text: str) -> dict[str, str]:
    return {"@language": "pt-BR", "@value": text}


def _read_institution() -> _Institution:
    path = CONTRACT / "catalogo.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Institution)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise ContractViolation(
            f"include/contract/{path.name} cannot be read: {error}. Mend it and run again."
        ) from error
