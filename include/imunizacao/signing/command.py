"""`python -m imunizacao keys new|list|retire|revoke|sign`. What to do when is in docs/runbook/signing-keys.md."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TextIO

from imunizacao.errors import ConfigurationError, ContractViolation
from imunizacao.manifests import Entry, Head, PublicKey
from imunizacao.reference_day import ReferenceDay
from imunizacao.settings import BucketSettings, bucket_settings_from_env
from imunizacao.signing.days import Vouch, published_days, receipts_vouch, resign_day
from imunizacao.signing.keys import Signer, fingerprint_of, load_signer, new_key
from imunizacao.signing.ring import EndState, name_keys, publish_key, read_keys, set_state
from imunizacao.storage import ObjectStore, open_nominal_store, open_public_store, open_work_store, sha256_of

_DONE = {"retired": "the days that it signed stay good", "revoked": "no signature by it is good any more"}


def add_keys(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    keys = commands.add_parser(
        "keys",
        help="keys that sign published days: make, list, retire, revoke, sign again",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    own = keys.add_subparsers(required=True, metavar="action")

    new = own.add_parser("new", help="make a key and write its private half to a new file")
    new.add_argument(
        "--out", type=Path, required=True, help="file for the private key (PEM, mode 0600); it must not exist"
    )
    new.add_argument(
        "--publish", action="store_true", help="let readers find its public half at once, before it signs anything"
    )
    new.set_defaults(command=_new)

    listed = own.add_parser("list", help="public keys of each bucket, their state and fingerprint")
    listed.set_defaults(command=_list)

    retire = own.add_parser("retire", help="a key signs nothing more; what it signed stays good")
    revoke = own.add_parser("revoke", help="a key was lost or copied: nothing that it signed is good any more")
    ends: list[tuple[argparse.ArgumentParser, EndState]] = [(retire, "retired"), (revoke, "revoked")]
    for ended, state in ends:
        ended.add_argument("key_id", help="id of the key, 16 hex digits")
        ended.add_argument("--publish", action="store_true", help="do it; without it only say what would change")
        ended.set_defaults(command=partial(_end, state))

    sign = own.add_parser("sign", help="sign published days with the configured key; no new revision")
    which = sign.add_mutually_exclusive_group(required=True)
    which.add_argument("--day", default="", help="one reference day, YYYY-MM-DD")
    which.add_argument("--all", action="store_true", help="every published day")
    sign.add_argument(
        "--without-receipt",
        action="store_true",
        help="sign also what no receipt in the work bucket confirms; compare it with a backup first",
    )
    sign.set_defaults(command=_sign)
    keys.epilog = "".join(action.format_usage() for action in own.choices.values())


def _new(options: argparse.Namespace, env: Mapping[str, str], out: TextIO, terminal: bool) -> int:
    settings = bucket_settings_from_env(env) if options.publish else None
    private, signer = new_key()
    try:
        with os.fdopen(os.open(options.out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(private)
    except OSError as error:
        raise ConfigurationError(
            f"The key cannot be written to {options.out}: {error.strerror}. Nothing was made. Name a new file in a folder of yours."
        ) from error
    print(f"private key  {options.out}", file=out)
    print(f"key id       {signer.key_id}", file=out)
    print(f"fingerprint  {signer.fingerprint}", file=out)
    if settings is not None:
        for store in _buckets(settings):
            _publish_key(store, signer)
            print(f"published    {store.bucket}", file=out)
    print(
        "Keep the file where secrets are kept, with a copy in another place. Next: docs/runbook/signing-keys.md",
        file=out,
    )
    return 0


def _list(options: argparse.Namespace, env: Mapping[str, str], out: TextIO, terminal: bool) -> int:
    settings = bucket_settings_from_env(env)
    signer = load_signer(settings.signing)
    for store in _buckets(settings):
        keys = read_keys(store)
        print(f"{store.bucket}: {len(keys)} keys", file=out)
        for key in keys:
            own = "  signs now" if signer is not None and key.key_id == signer.key_id else ""
            span = f"{key.since} – {key.until}" if key.until else f"since {key.since}"
            print(f"  {key.key_id}  {key.state:<8}  {span}  {_fingerprint(store, key)}{own}", file=out)
    if signer is None:
        print("No signing key is configured: days are published without a signature.", file=out)
    else:
        print(f"configured: {signer.key_id}  {signer.fingerprint}", file=out)
    return 0


def _end(state: EndState, options: argparse.Namespace, env: Mapping[str, str], out: TextIO, terminal: bool) -> int:
    settings = bucket_settings_from_env(env)
    found = False
    for store in _buckets(settings):
        key = next((key for key in read_keys(store) if key.key_id == options.key_id), None)
        if key is None:
            continue
        found = True
        if not options.publish:
            print(f"{store.bucket}: {key.key_id} is {key.state}, would be {state}: {_DONE[state]}", file=out)
            continue
        ended = set_state(store, options.key_id, state, now=_now())
        if ended is not None:
            print(
                f"{store.bucket}: {ended.key_id} is {ended.state} since {ended.until}: {_DONE[ended.state]}", file=out
            )
    if not found:
        raise ConfigurationError(
            f"No bucket has a key {options.key_id}. `python -m imunizacao keys list` shows those that exist."
        )
    if not options.publish:
        print("Nothing was changed. Add --publish to do it.", file=out)
    elif state == "revoked":
        print("Next: `python -m imunizacao keys sign --all` with the new key, and tell readers.", file=out)
    return 0


def _sign(options: argparse.Namespace, env: Mapping[str, str], out: TextIO, terminal: bool) -> int:
    settings = bucket_settings_from_env(env)
    signer = load_signer(settings.signing)
    if signer is None:
        raise ConfigurationError(
            "There is no key to sign with. Set IMUNIZACAO_SIGNING_KEY_FILE or IMUNIZACAO_SIGNING_KEY; see docs/runbook/signing-keys.md."
        )
    work = open_work_store(settings.storage)
    left = 0
    for store, stage in zip(_buckets(settings), ("publish", "nominal"), strict=False):
        _publish_key(store, signer)
        days = [str(ReferenceDay.parse(options.day))] if options.day else list(published_days(store))
        left += _sign_days(
            store, days, signer, vouched=_anything if options.without_receipt else receipts_vouch(work, stage), out=out
        )
    if left:
        raise ContractViolation(
            f"{left} contents were not signed, each is named above. What is damaged: docs/runbook/damaged-manifest.md; what no receipt "
            "confirms: docs/runbook/signing-keys.md."
        )
    return 0


def _publish_key(store: ObjectStore, signer: Signer) -> None:
    """Before a head names it: a reader gets to the key by the catalog."""
    publish_key(store, signer, now=_now())
    name_keys(store)


def _sign_days(store: ObjectStore, days: list[str], signer: Signer, *, vouched: Vouch, out: TextIO) -> int:
    """Sign days of one bucket, telling what could not be signed. Answers how many contents that were."""
    signed, left = 0, 0
    for day in days:
        done, unsigned = resign_day(store, day, signer, vouched=vouched, now=_now())
        signed, left = signed + done, left + len(unsigned)
        for one in unsigned:
            print(f"{store.bucket}/{one.root}: not signed, {one.reason}", file=out)
    print(f"{store.bucket}: {signed} contents of {len(days)} days are signed by {signer.key_id}", file=out)
    return left


def _anything(head: Head, entry: Entry) -> bool:
    return True


def _buckets(settings: BucketSettings) -> list[ObjectStore]:
    """The public bucket, and the nominal one where it is switched on."""
    stores = [open_public_store(settings.storage)]
    if settings.nominal is not None:
        stores.append(open_nominal_store(settings.storage, settings.nominal))
    for store in stores:
        store.require_bucket()
    return stores


def _fingerprint(store: ObjectStore, key: PublicKey) -> str:
    stored = store.get_or_none(key.path)
    if stored is None or sha256_of(stored.body) != key.sha256:
        return f"{key.path} is missing or damaged: docs/runbook/damaged-manifest.md"
    return fingerprint_of(stored.body, key.path)


def _now() -> datetime:
    return datetime.now(UTC)
