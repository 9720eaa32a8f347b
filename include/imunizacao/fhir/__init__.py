"""The only door to the FHIR mirror (httpx). Pages come in as bytes and leave as entries, byte for byte.

Errors of the HTTP client become ours here. Nothing of this package knows the object store.
"""

from imunizacao.fhir.auth import Authenticator
from imunizacao.fhir.client import MirrorClient, WalkBroken, mirror_newest
from imunizacao.fhir.landing import LandedFile, LandedWalk, LandingWriter
from imunizacao.fhir.pages import MAX_DEPTH, MAX_ENTRY_BYTES, Entry, Page, Reject
from imunizacao.fhir.window import Window, instant_text, parse_instant

__all__ = [
    "MAX_DEPTH",
    "MAX_ENTRY_BYTES",
    "Authenticator",
    "Entry",
    "LandedFile",
    "LandedWalk",
    "LandingWriter",
    "MirrorClient",
    "Page",
    "Reject",
    "WalkBroken",
    "Window",
    "instant_text",
    "mirror_newest",
    "parse_instant",
]
