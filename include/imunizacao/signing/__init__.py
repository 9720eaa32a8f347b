"""Signatures over the root of a published day, and the keys that make them (ADR 0030).

An Ed25519 signature over `day.json`, which names every file by hash, says who published the day. Here, and for the mirror in `fhir/`,
is the only door to `cryptography`.
"""

from imunizacao.signing.days import (
    Unsigned,
    is_signed,
    known_signature,
    published_days,
    receipts_vouch,
    resign_day,
    sign_root,
    with_signature,
)
from imunizacao.signing.envelope import PAYLOAD_TYPE, PREDICATE_TYPE, Signed, make_envelope, read_envelope
from imunizacao.signing.keys import Signer, fingerprint_of, key_id_of, load_signer, new_key
from imunizacao.signing.ring import publish_key, read_keys, set_state

__all__ = [
    "PAYLOAD_TYPE",
    "PREDICATE_TYPE",
    "Signed",
    "Signer",
    "Unsigned",
    "fingerprint_of",
    "is_signed",
    "key_id_of",
    "known_signature",
    "load_signer",
    "make_envelope",
    "new_key",
    "publish_key",
    "published_days",
    "read_envelope",
    "read_keys",
    "receipts_vouch",
    "resign_day",
    "set_state",
    "sign_root",
    "with_signature",
]
