"""The catalog in DCAT: what dados.gov.br asks for is in every dataset, and nothing in it depends on the day."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urljoin

import msgspec

from imunizacao.dcat import describe_catalog
from imunizacao.manifests import (
    Catalog,
    CatalogMonth,
    ContractVersion,
    DictionaryFile,
    Operation,
    Totals,
)

HERE = "https://s3.example.org/imunizacao/v1/catalog.jsonld"
CATALOG = Catalog(
    schema="imunizacao.catalog/1",
    operations=[
        Operation(
            slug=f"imunizacao-{view}-{sg.lower()}",
            title=f"imunização-{view}-{sg.lower()}",
            uf=uf,
            sg_uf=sg,
            description=f"Doses aplicadas em {sg}.",
        )
        for view in ("total", "residentes")
        for uf, sg in (("35", "SP"), ("53", "DF"))
    ],
    contract=ContractVersion(name="dose", version="1.1.0"),
    dictionary=DictionaryFile(path="v1/dados/dicionario-1.1.0-0123456789ab.html", sha256="a" * 64, bytes=9),
    months=[
        CatalogMonth(month=month, path=f"v1/months/{month}/index.json", days=3, rows=10)
        for month in ("2026-02", "2026-03")
    ],
    totals=Totals(days=6, rows=20),
)


def _expanded(node: Any) -> Any:
    """Addresses as a reader of the document resolves them; prefixes written out."""
    prefixes = json.loads(describe_catalog(CATALOG))["@context"]

    def name(text: str) -> str:
        prefix, colon, rest = text.partition(":")
        return prefixes[prefix] + rest if colon and prefix in prefixes else text

    if isinstance(node, list):
        return [_expanded(item) for item in node]
    if not isinstance(node, dict):
        return node
    done = {}
    for key, value in node.items():
        if key == "@context":
            continue
        if key == "@id":
            done[key] = urljoin(HERE, value)
        elif key == "@type":
            done[key] = name(value)
        else:
            done[key if key.startswith("@") else name(key)] = _expanded(value)
    return done


DCAT, DCT, FOAF = "http://www.w3.org/ns/dcat#", "http://purl.org/dc/terms/", "http://xmlns.com/foaf/0.1/"


def test_every_operation_is_a_dataset_with_the_fields_of_the_inda() -> None:
    catalog = _expanded(json.loads(describe_catalog(CATALOG)))
    assert catalog["@type"] == DCAT + "Catalog"
    assert [dataset[DCT + "identifier"] for dataset in catalog[DCAT + "dataset"]] == [
        operation.slug for operation in CATALOG.operations
    ]
    for node in (catalog, *catalog[DCAT + "dataset"]):
        assert node[DCT + "title"]["@value"]  # título
        assert node[DCT + "title"]["@language"] == "pt-BR"
        assert node[DCT + "description"]["@value"]  # descrição
        assert node[DCAT + "landingPage"]["@id"].startswith("https://")  # catálogo origem
        assert node[DCT + "publisher"][FOAF + "name"]["@value"] == "Ministério da Saúde (MS)"  # órgão responsável
    for dataset in catalog[DCAT + "dataset"]:
        assert dataset["@type"] == DCAT + "Dataset"
        assert "http://vocab.e.gov.br/id/governo#saude" in {theme["@id"] for theme in dataset[DCAT + "theme"]}  # VCGE
        resource = dataset[DCAT + "distribution"]  # recursos: identificador, título, formato, descrição
        assert resource[DCAT + "accessURL"]["@id"] == "https://s3.example.org/imunizacao/v1/catalog.json"
        assert resource[DCT + "title"]["@value"]
        assert resource[DCT + "format"]["@id"].endswith("/file-type/CSV")
        assert resource[DCT + "description"]["@value"]
        assert dataset[DCT + "temporal"][DCAT + "startDate"]["@value"] == "2026-02-01"
        assert dataset[FOAF + "page"]["@id"] == (
            "https://s3.example.org/imunizacao/v1/dados/dicionario-1.1.0-0123456789ab.html"
        )
    names = [node["@id"] for dataset in catalog[DCAT + "dataset"] for node in (dataset, dataset[DCAT + "distribution"])]
    assert len(names) == len(set(names)) == 8


def test_it_is_the_same_from_day_to_day() -> None:
    more = msgspec.structs.replace(
        CATALOG,
        months=[*CATALOG.months, CatalogMonth(month="2026-04", path="v1/months/2026-04/index.json", days=1, rows=5)],
        totals=Totals(days=7, rows=25),
        keys="v1/keys/index.json",
    )
    assert describe_catalog(more) == describe_catalog(CATALOG)
    other = msgspec.structs.replace(CATALOG, contract=ContractVersion(name="dose", version="1.2.0"))
    assert describe_catalog(other) != describe_catalog(CATALOG)


def test_a_catalog_before_the_first_month_and_without_a_dictionary_is_described_too() -> None:
    bare = msgspec.structs.replace(CATALOG, months=[], dictionary=None)
    for dataset in json.loads(describe_catalog(bare))["dcat:dataset"]:
        assert not {"dct:temporal", "foaf:page"} & set(dataset)
