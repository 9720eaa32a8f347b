"""The only door to the FHIR mirror (httpx). Pages come in as bytes and leave as entries, byte for byte.

Errors of the HTTP client become ours here. Nothing of this package knows the object store.
"""

from imunizacao.fhir.assemble import Assembler
from imunizacao.fhir.auth import Authenticator
from imunizacao.fhir.capability import Way, choose_way
from imunizacao.fhir.client import Cursor, MirrorClient, mirror_newest, visited_mark
from imunizacao.fhir.elements import known_elements, merge_unknown
from imunizacao.fhir.landing import (
    LandedFile,
    LandedWalk,
    LandingWriter,
    PageBlock,
    encode_entries,
    encode_page,
    keys_of_log,
    read_lines,
)
from imunizacao.fhir.pages import MAX_DEPTH, MAX_ENTRY_BYTES, Entry, Page, Reject
from imunizacao.fhir.resources import ResourceClient
from imunizacao.fhir.source import ExportSource, Source, open_source
from imunizacao.fhir.transport import Answer, Downloaded, Received, Transport, WalkBroken
from imunizacao.fhir.window import Window, instant_text, parse_instant

__all__ = [
    "MAX_DEPTH",
    "MAX_ENTRY_BYTES",
    "Answer",
    "Assembler",
    "Authenticator",
    "Cursor",
    "Downloaded",
    "Entry",
    "ExportSource",
    "LandedFile",
    "LandedWalk",
    "LandingWriter",
    "MirrorClient",
    "Page",
    "PageBlock",
    "Received",
    "Reject",
    "ResourceClient",
    "Source",
    "Transport",
    "WalkBroken",
    "Way",
    "Window",
    "choose_way",
    "encode_entries",
    "encode_page",
    "instant_text",
    "keys_of_log",
    "known_elements",
    "merge_unknown",
    "mirror_newest",
    "open_source",
    "parse_instant",
    "read_lines",
    "visited_mark",
]
