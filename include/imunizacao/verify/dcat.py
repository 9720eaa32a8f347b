"""`catalog.jsonld`: the catalog in DCAT, with the fields that dados.gov.br asks for, and links that lead somewhere."""

from __future__ import annotations

from typing import Final

from imunizacao.verify import forms
from imunizacao.verify.forms import Json, Malformed
from imunizacao.verify.found import Findings
from imunizacao.verify.layout import CATALOG, DCAT

KIND: Final = "dcat"
_PREFIXES: Final = {
    "dcat": "http://www.w3.org/ns/dcat#",
    "dct": "http://purl.org/dc/terms/",
    "foaf": "http://xmlns.com/foaf/0.1/",
    "skos": "http://www.w3.org/2004/02/skos/core#",
    "xsd": "http://www.w3.org/2001/XMLSchema#",
}
_CSV: Final = "https://www.iana.org/assignments/media-types/text/csv"
_ROOT: Final = "v1/"
"""The document lies here; what it names is relative to it."""


def check_dcat(document: Json, catalog: Json, findings: Findings) -> None:
    """Compare the description with the catalog; what `catalog.json` names was looked at there. Raises `Malformed`."""
    context = forms.child(document, "@context")
    findings.expect(KIND, DCAT, "@context", expected=_PREFIXES, found={name: context.get(name) for name in _PREFIXES})
    findings.expect(KIND, DCAT, "@type", expected="dcat:Catalog", found=document.get("@type"))
    _check_common(document)
    datasets = {forms.text(node, "dct:identifier"): node for node in forms.children(document, "dcat:dataset")}
    operations = {forms.text(node, "slug"): node for node in forms.children(catalog, "operations")}
    findings.expect(
        KIND, DCAT, "operations without a dataset", expected=0, found=len(operations.keys() - datasets.keys())
    )
    strange = len(forms.children(document, "dcat:dataset")) - len(operations.keys() & datasets.keys())
    findings.expect(KIND, DCAT, "datasets without an operation, or twice", expected=0, found=strange)
    wrong: dict[str, list[tuple[str, object, object]]] = {}
    for slug in sorted(operations.keys() & datasets.keys()):
        try:
            for what, expected, found in _facts(datasets[slug], operations[slug], catalog):
                if expected != found:
                    wrong.setdefault(what, []).append((slug, expected, found))
        except Malformed as error:
            raise Malformed(f"{error.member} of {slug}", error.expected) from None
    for what, cases in wrong.items():
        slug, expected, found = cases[0]
        findings.add(KIND, DCAT, f"{what} of {len(cases)} datasets, {slug} among them", expected=expected, found=found)


def _facts(dataset: Json, operation: Json, catalog: Json) -> list[tuple[str, object, object]]:
    """What, expected and found. All that must be there is there, or it is `Malformed`."""
    _check_common(dataset)
    forms.text(forms.child(dataset, "dct:creator"), "@id")
    for name in ("dcat:keyword", "dcat:theme"):
        if not forms.children(dataset, name):
            raise Malformed(name, "one at least")
    for theme in forms.children(dataset, "dcat:theme"):
        forms.text(theme, "@id")
        _text(theme, "skos:prefLabel")
    spatial, distribution = forms.child(dataset, "dct:spatial"), forms.child(dataset, "dcat:distribution")
    _text(distribution, "dct:title")
    _text(distribution, "dct:description")
    months, page = forms.children(catalog, "months"), dataset.get("foaf:page")
    start = forms.child(forms.child(dataset, "dct:temporal"), "dcat:startDate") if months else {}
    dictionary = forms.child(catalog, "dictionary") if "dictionary" in catalog else {}
    address = _text(dictionary, "path").removeprefix(_ROOT) if dictionary else None
    return [
        ("@type", "dcat:Dataset", dataset.get("@type")),
        ("title", operation.get("title"), _text(dataset, "dct:title")),
        ("code of the UF", operation.get("uf"), spatial.get("dct:identifier")),
        ("initials of the UF", operation.get("sg_uf"), _text(spatial, "skos:prefLabel")),
        ("version", forms.child(catalog, "contract").get("version"), dataset.get("dcat:version")),
        ("first day", f"{forms.text(months[0], 'month')}-01" if months else None, start.get("@value")),
        ("page of the dictionary", address, page.get("@id") if isinstance(page, dict) else page),
        ("address of the distribution", CATALOG.removeprefix(_ROOT), _id(distribution, "dcat:accessURL")),
        ("media type of the distribution", _CSV, _id(distribution, "dcat:mediaType")),
    ]


def _check_common(node: Json) -> None:
    """Title, description, who is responsible, language, and the catalog that it comes from."""
    _text(node, "dct:title")
    _text(node, "dct:description")
    publisher = forms.child(node, "dct:publisher")
    _text(publisher, "foaf:name")
    _id(publisher, "foaf:homepage")
    _id(node, "dct:language")
    _id(node, "dcat:landingPage")


def _id(node: Json, name: str) -> str:
    return _text(forms.child(node, name), "@id")


def _text(node: Json, name: str) -> str:
    """A text that is not empty, with or without its language."""
    value = node.get(name)
    text = value.get("@value") if isinstance(value, dict) else value
    if not isinstance(text, str) or not text:
        raise Malformed(name, "a text that is not empty")
    return text
