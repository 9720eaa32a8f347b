"""Elements of documents that no profile known to us has: named and counted, never a reason to refuse a document.

The table is `include/reference/rnds/elementos.csv`. A decoder made of it takes a document only when every element is in the
table (2 µs more than looking at id and version alone); any other document is walked, and the walk says what is new. Names come
from outside: they are cut, masked and limited in number. Values are never looked at.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, reduce
from operator import or_
from pathlib import Path
from types import GenericAlias
from typing import Any, Final

import msgspec
from msgspec import defstruct

from imunizacao.errors import ConfigurationError
from imunizacao.paths import REFERENCE

TABLE: Final = REFERENCE / "rnds" / "elementos.csv"
MAX_PATHS: Final = 50
"""Different unknown elements that a document, page, slice or day names; all others are one."""
OTHERS: Final = "(outros)"
ILLEGIBLE: Final = "(ilegível)"
"""A name that is no name of an element."""

_NAME: Final = re.compile(r"_?[A-Za-z][A-Za-z0-9_.:-]{0,63}")
_DIGITS: Final = re.compile(r"[0-9](?:[._:-]?[0-9]){7,}")
"""Eight digits or more, also with the punctuation of a CPF: an identifier in the wrong place."""
_VERSION: Final = re.compile(r"-[0-9.]+$")
_STEP: Final = re.compile(r"(?P<name>_?[A-Za-z]+)(?:\[(?P<extension>[A-Za-z0-9-]+|\*)\])?")
_ANY: Final = "*"
_BASES: Final = (
    "http://www.saude.gov.br/fhir/r4/StructureDefinition/",
    "http://rnds.saude.gov.br/fhir/r4/StructureDefinition/",
    "",
)
"""Where the RNDS and its registry keep extensions; the parts of a composed extension have bare names."""

_Scalar = str | int | float | bool | None
_Leaf = _Scalar | list[_Scalar]


@dataclass(slots=True, eq=False)
class _Node:
    """An element of the table: what may be below it."""

    path: str
    children: dict[str, _Node] = field(default_factory=dict)
    """By name; the children of an `extension` are extensions by name, `*` for any."""
    is_resource: bool = False
    """Holds a resource of any known type."""


class KnownElements:
    """The table as a decoder for documents that hold nothing else, and as a tree to walk the others."""

    def __init__(self, elements: Iterable[str]) -> None:
        self._roots: dict[str, _Node] = {}
        for element in elements:
            self._add(element)
        self._entry = self._roots["Bundle"].children["entry"]
        self.decoder: Final[msgspec.json.Decoder[Any]] = msgspec.json.Decoder(_Structs(self._roots).entry())
        """Of a search entry; raises `ValidationError` at the first element that is not in the table, or of another type.

        The result has `fullUrl`, `search.mode`, `resource.id` and `resource.meta` with `versionId` and `lastUpdated`, each of
        them None when it is absent, and what they hold is of the type that FHIR gives them.
        """

    def look(self, entry: bytes) -> list[str]:
        """The same as `unknown`, quick where there is nothing to find."""
        try:
            self.decoder.decode(entry)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return self.unknown(entry)
        return []

    def unknown(self, entry: bytes) -> list[str]:
        """Elements of a search entry that the table does not have, each once, the topmost of a branch only.

        Empty as well for what is not JSON: flatten says so.
        """
        try:
            value = msgspec.json.decode(entry)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return []
        found: dict[str, None] = {}
        for path in self._walk(value):
            found[path if path in found or len(found) < MAX_PATHS else OTHERS] = None
        return list(found)

    def _add(self, element: str) -> None:
        kind, _, rest = element.partition(".")
        node = self._roots.setdefault(kind, _Node(kind))
        # A version number in an extension's name would part the path: names in the table have none.
        for text in rest.split("."):
            step = _STEP.fullmatch(text)
            if step is None or (step["name"] == "extension") is not bool(step["extension"]):
                raise ConfigurationError(
                    f"{element!r} is not the path of an element. Mend include/reference/rnds/elementos.csv: "
                    "`Resource.element.extension[Name].element`, without list marks; see docs/runbook/new-fields.md."
                )
            node = node.children.setdefault(step["name"], _Node(f"{node.path}.{step['name']}"))
            if step["extension"]:
                node = node.children.setdefault(step["extension"], _Node(f"{node.path}[{step['extension']}]"))
        if element == "Bundle.entry.resource":
            node.is_resource = True

    def _walk(self, value: Any) -> Iterator[str]:
        stack: list[tuple[Any, _Node]] = [(value, self._entry)]
        while stack:
            value, node = stack.pop()
            if isinstance(value, list):
                stack.extend((item, node) for item in value)
                continue
            if not isinstance(value, dict):
                continue
            if node.is_resource:
                kind = value.pop("resourceType", None)
                root = self._roots.get(kind) if isinstance(kind, str) else None
                if root is None:
                    yield _step(kind) if isinstance(kind, str) else f"{node.path}.resourceType"
                    continue
                node = root
            children = node.children
            for name, inner in value.items():
                child = children.get(name)
                if child is None:
                    yield f"{node.path}.{_step(name)}"
                elif name == "extension":
                    yield from _extensions(inner, child, stack)
                elif isinstance(inner, dict | list):
                    stack.append((inner, child))


def _extensions(value: Any, node: _Node, stack: list[tuple[Any, _Node]]) -> Iterator[str]:
    """Names of the extensions that `node` does not have; what is below the others goes on the stack, without its address."""
    for item in value if isinstance(value, list) else [value]:
        if not isinstance(item, dict):
            continue
        url = item.pop("url", None)
        name = _VERSION.sub("", url.partition("|")[0].rpartition("/")[2]) if isinstance(url, str) else ""
        child = node.children.get(name) or node.children.get(_ANY)
        if child is None:
            yield f"{node.path}[{_step(name)}]"
        else:
            stack.append((item, child))


class _Structs:
    """Makes the types that the decoder reads documents into. Same fields, same type: 275 rows make about 60 of them."""

    def __init__(self, roots: Mapping[str, _Node]) -> None:
        self._roots = roots
        self._made: dict[object, Any] = {}

    def entry(self) -> Any:
        """Type of an entry of the search page: any resource, documents among them."""
        inner = self._entry([self._root(kind) for kind in self._roots if kind != "Bundle"])
        documents = self._root("Bundle", entry=inner)
        return self._entry([documents, *(self._root(kind) for kind in self._roots if kind != "Bundle")])

    def _entry(self, resources: list[Any]) -> Any:
        search = self._struct(dict.fromkeys(self._below("search"), _Leaf) | {"mode": str | None})
        return self._struct({"fullUrl": str | None, "resource": reduce(or_, resources) | None, "search": search | None})

    def _below(self, name: str) -> Mapping[str, _Node]:
        return self._roots["Bundle"].children["entry"].children[name].children

    def _root(self, kind: str, **given: Any) -> Any:
        """Type of a resource; id, version and instant are strict, because the page is read by them."""
        node = self._roots[kind]
        meta = {name: self._type(child) for name, child in node.children["meta"].children.items()}
        meta |= {"versionId": str | int | None, "lastUpdated": str | None}
        fields = self._fields(node) | {"id": str | None, "meta": self._struct(meta) | None}
        fields |= {name: _some(kept) | None for name, kept in given.items()}
        return self._struct(fields, tag_field="resourceType", tag=kind)

    def _fields(self, node: _Node) -> dict[str, Any]:
        return {name: self._type(child, name) for name, child in node.children.items() if not child.is_resource}

    def _type(self, node: _Node, name: str = "") -> Any:
        if not node.children:
            return _Leaf
        one = self._extension(node) if name == "extension" else self._struct(self._fields(node))
        return _some(one) | None

    def _extension(self, node: _Node) -> Any:
        """An extension by its address. One whose address is new but whose name is known is left to the walk."""
        if _ANY in node.children:
            return self._struct({"url": _Leaf} | self._fields(node.children[_ANY]))
        kinds = []
        for name, child in node.children.items():
            fields = self._fields(child)
            addresses = [f"{base}{name}{version}" for base in _BASES for version in ("", "-1.0")]
            kinds += [self._struct(fields, tag_field="url", tag=address) for address in addresses]
        return reduce(or_, kinds)

    def _struct(self, fields: Mapping[str, Any], *, tag_field: str | None = None, tag: str | None = None) -> Any:
        key = (tuple(fields.items()), tag_field, tag)
        if key not in self._made:
            self._made[key] = defstruct(
                f"Known{len(self._made)}",
                [(name, kept, None) for name, kept in fields.items()],
                tag_field=tag_field,
                tag=tag,
                forbid_unknown_fields=True,
                gc=False,
            )
        return self._made[key]


def _some(one: Any) -> Any:
    """One or a list: how often an element may occur is no matter of this table."""
    return GenericAlias(list, (one,)) | one


def read_elements(path: Path = TABLE) -> list[str]:
    """Paths of the table, in the order in which documents carry them: the decoder is fastest so."""
    with path.open(encoding="utf-8", newline="") as file:
        return [row["elemento"] for row in csv.DictReader(file, strict=True)]


@cache
def known_elements() -> KnownElements:
    """The table of this code version."""
    return KnownElements(read_elements())


def merge_unknown(total: Mapping[str, int], page: Mapping[str, int]) -> dict[str, int]:
    """Sum of two counts (element → documents), in order of the names.

    At most `MAX_PATHS` elements keep their name: those of most documents, then by name. The others are counted under
    `(outros)`, a document once per element.
    """
    counts = dict(total)
    for name, documents in page.items():
        counts[name] = counts.get(name, 0) + documents
    others = counts.pop(OTHERS, 0)
    ranked = sorted(counts, key=lambda name: (-counts[name], name))
    merged = {name: counts[name] for name in sorted(ranked[:MAX_PATHS])}
    others += sum(counts[name] for name in ranked[MAX_PATHS:])
    return merged | ({OTHERS: others} if others else {})


def _step(name: str) -> str:
    """A name from outside as part of a path: no more than a name, and without long numbers."""
    return _DIGITS.sub("***", name) if _NAME.fullmatch(name) else ILLEGIBLE
