"""What a few dozen documents hold: counts and shares, names of profiles and extensions, nothing of a person."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from imunizacao.fhir.loose import items, member, read_json, shown_name, text
from imunizacao.paths import REFERENCE

SAMPLE: Final = 50
"""Most documents that are looked into."""
_CNES: Final = re.compile(r"[0-9]{7}")
_IBGE: Final = re.compile(r"[0-9]{6,7}")


@dataclass(slots=True)
class Sample:
    """Counts over the documents that were looked into."""

    documents: int = 0
    readable: int = 0
    """With one Composition or more, and one Immunization or more."""
    with_vaccine_and_date: int = 0
    with_cnes: int = 0
    with_type: Counter[str] = field(default_factory=Counter)
    """Documents by the resource types in them."""
    profiles: Counter[str] = field(default_factory=Counter)
    """Documents by profile of the Composition."""
    ibge: int = 0
    """Documents with a Patient whose municipality is where we read it."""
    ibge_elsewhere: Counter[str] = field(default_factory=Counter)
    """Where else something that looks like its code was found."""

    @property
    def unknown_profiles(self) -> int:
        """Documents of a profile that no generation known to us has."""
        known = known_profiles()
        return sum(count for name, count in self.profiles.items() if name not in known)


def known_profiles() -> frozenset[str]:
    """Composition profiles of all generations, with their version."""
    with (REFERENCE / "rnds" / "perfis.csv").open(encoding="utf-8", newline="") as file:
        return frozenset(row["perfil_composition"] for row in csv.DictReader(file))


def read_sample(documents: Iterable[Sequence[object]]) -> Sample:
    """Count over documents, each given as its resources."""
    sample = Sample()
    for resources in documents:
        _add(sample, resources)
    return sample


def spread(lines: Sequence[bytes], most: int) -> list[bytes]:
    """At most so many of them, at even distances."""
    step = max(1, -(-len(lines) // most))
    return list(lines[::step])


def document_resources(line: bytes) -> list[object]:
    """Resources of a search entry that carries a document Bundle."""
    bundle = member(read_json(line), "resource")
    return [member(entry, "resource") for entry in items(bundle, "entry")]


def split_documents(body: bytes, most: int) -> list[list[object]]:
    """Resources of each Immunization of a page together with what came along: Compositions that name it, its Patient, Organizations."""
    resources = [member(entry, "resource") for entry in items(read_json(body), "entry")]
    compositions = [found for found in resources if _type(found) == "Composition"]
    patients = {text(found, "id"): found for found in resources if _type(found) == "Patient"}
    organizations = [found for found in resources if _type(found) == "Organization"]
    documents = []
    for immunization in [found for found in resources if _type(found) == "Immunization"][:most]:
        reference = f"Immunization/{text(immunization, 'id')}"
        found = [one for one in compositions if reference in _section_references(one)]
        patient = patients.get(text(immunization, "patient", "reference").rpartition("/")[2])
        documents.append([immunization, *found, *([patient] if patient else []), *organizations])
    return documents


def _section_references(composition: object) -> set[str]:
    found = [text(entry, "reference") for part in items(composition, "section") for entry in items(part, "entry")]
    return {"/".join(reference.split("/")[-2:]) for reference in found}


def _add(sample: Sample, resources: Sequence[object]) -> None:
    sample.documents += 1
    types = {_type(resource) for resource in resources} - {""}
    sample.with_type.update(name for name in types if re.fullmatch(r"[A-Z][A-Za-z]{1,40}", name))
    compositions = [resource for resource in resources if _type(resource) == "Composition"]
    immunizations = [resource for resource in resources if _type(resource) == "Immunization"]
    sample.readable += bool(compositions and immunizations)
    sample.with_vaccine_and_date += bool(immunizations) and all(map(_has_vaccine_and_date, immunizations))
    sample.with_cnes += any(
        _CNES.fullmatch(text(composition, "author", 0, "identifier", "value")) for composition in compositions
    )
    if compositions:
        sample.profiles[_profile(compositions[0])] += 1
    for patient in [resource for resource in resources if _type(resource) == "Patient"][:1]:
        place = _ibge_place(patient)
        if place == "":
            sample.ibge += 1
        else:
            sample.ibge_elsewhere[place] += 1


def _type(resource: object) -> str:
    return text(resource, "resourceType")


def _has_vaccine_and_date(immunization: object) -> bool:
    return bool(text(immunization, "vaccineCode", "coding", 0, "code") and text(immunization, "occurrenceDateTime"))


def _profile(composition: object) -> str:
    address = next((found for found in items(composition, "meta", "profile") if isinstance(found, str)), "")
    if not address:
        return "(none)"
    name = address.split("|")[0].rpartition("/")[2]
    return shown_name(name, 70) if re.fullmatch(r"[A-Za-z][A-Za-z0-9._-]*", name) else "(unreadable)"


def _ibge_place(patient: object) -> str:
    """Empty when the code is where flatten reads it, else the name of the place where it was found."""
    address = member(patient, "address", 0)
    if _IBGE.fullmatch(text(address, "_city", "extension", 0, "valueString").strip()):
        return ""
    for where, owner in (
        ("address[0]._city", member(address, "_city")),
        ("address[0]", address),
        ("Patient", patient),
    ):
        for extension in items(owner, "extension"):
            values = [value for name, value in _members(extension) if name.startswith("value")]
            if any(_holds_code(value) for value in values):
                name = text(extension, "url").split("|")[0].rpartition("/")[2]
                return f"{where}, extension {shown_name(name, 40) or '(no url)'}"
    if _IBGE.fullmatch(text(address, "city").strip()):
        return "address[0].city"
    return "nowhere"


def _holds_code(value: object) -> bool:
    found = [value, member(value, "code"), *(member(coding, "code") for coding in items(value, "coding"))]
    return any(isinstance(code, str | int) and _IBGE.fullmatch(str(code).strip()) for code in found)


def _members(value: object) -> list[tuple[str, object]]:
    return list(value.items()) if isinstance(value, dict) else []
