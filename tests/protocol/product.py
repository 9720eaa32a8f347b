"""The product's own `publish`, `reconcile`, `swap` and `update_month` as writers of the explorer.

Head, month index and catalog are the keys that runs share: every call about them is a step of the walk, and may be lost, or be the last
one of a process. Everything else in the bucket is named by its content and written by whoever comes first; it is a dictionary that all
of them share. A state is judged by the invariants of the model: `as_model` tells the product's JSON in the model's terms.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from unittest import mock

from imunizacao.dictionary import publish_dictionary
from imunizacao.errors import ContractViolation, PublicationConflict, StorageUnavailable
from imunizacao.models import PublishReceipt, RunContext
from imunizacao.publish import publish_day
from imunizacao.reconcile import reconcile_day
from imunizacao.reference_day import ReferenceDay
from imunizacao.settings import EngineSettings
from imunizacao.storage import PreconditionLost
from tests.protocol import model
from tests.protocol.explorer import Explorer, GivesUp, Lost, Refused, Report, Store, World, Writer
from tests.protocol.telling import tell_head, tell_index
from tests.support.memory_store import MemoryStore, etag_of
from tests.support.small_day import SmallDay, dose, make_inputs
from tests.support.withdrawal import withdraw

DAY: Final = "2026-03-14"
HEAD: Final = f"v1/days/{DAY}/head.json"
INDEX: Final = "v1/months/2026-03/index.json"
CATALOG: Final = "v1/catalog.json"
ROWS: Final[Mapping[str, list[dict[str, str]]]] = {
    "a": [dose("a", "355030")],
    "b": [dose("a", "355030"), dose("b", "120040")],
    "c": [dose("c", "530010")],
    model.BAD: [dose("x", "355030"), dose("y", "355030")],
}
_RED: Final = (ContractViolation, PublicationConflict, StorageUnavailable)


class _WalkedStore(MemoryStore):
    """The public bucket of one writer: shared keys through the explorer, the rest in the common dictionary."""

    def __init__(self, common: dict[str, bytes], shared: frozenset[str], walk: Store, etags: dict[str, bytes]) -> None:
        super().__init__(common, bucket="public")
        self._shared, self._walk, self._etags = shared, walk, etags

    def read(self, key: str) -> bytes | None:
        if key not in self._shared:
            return super().read(key)
        body: bytes | None = self._walk.get(key)
        if body is not None:
            self._etags[etag_of(body)] = body
        return body

    def write(self, key: str, body: bytes, *, absent: bool, match: str) -> None:
        if key not in self._shared:
            assert self.objects.get(key, body) == body or key.endswith(DERIVED), f"{key} was overwritten"
            super().write(key, body, absent=absent, match=match)
            return
        assert absent or match, f"{key} was written without a condition"
        try:
            self._walk.put(key, body, only_if=self._etags[match] if match else None)
        except Refused:
            raise PreconditionLost(f"{key}: refused.") from None
        except Lost:
            raise StorageUnavailable(f"{key}: no response.") from None


@dataclass(slots=True)
class Product:
    """A day whose contents are in the bucket already, and writers that publish them."""

    folder: Path
    catalog: bool = False
    """Whether steps at the catalog are steps of the walk."""
    common: dict[str, bytes] = field(default_factory=dict)
    contents: dict[str, str] = field(default_factory=dict)
    """Content id → name."""
    etags: dict[str, bytes] = field(default_factory=dict)
    returning: set[str] = field(default_factory=set)
    """Runs with the reason `restore`."""
    _page: Any = None

    def __post_init__(self) -> None:
        """Publish every content once, somewhere else, and keep its folder."""
        for name, rows in ROWS.items():
            day = SmallDay(DAY, MemoryStore(), MemoryStore(), self.folder)
            published = day.publish(*day.inputs(rows))
            objects = day.public.objects
            self.common |= {key: body for key, body in objects.items() if "/c-" in key or "/dados/" in key}
            self.contents[published.content_id] = name
            if name == model.BAD:
                victim = f"{published.root_path.rpartition('/')[0]}/uf=35/imunizacao-total-sp_{DAY}.csv"
                self.common[victim] = (
                    self.common[victim][:-2] + b"!\n"
                )  # of the same size: another is refused before the head moves
        self._page = publish_dictionary(MemoryStore())

    @property
    def keys(self) -> list[str]:
        """What runs share."""
        return [HEAD, INDEX, *([CATALOG] if self.catalog else [])]

    def publisher(self, name: str, content: str, through: int, *, reason: str = "", cnes: str = "202602") -> Writer:
        """A run that publishes and counts again; `through` is the hour of its extract, `cnes` the newest when it began."""
        context = RunContext.create(day=ReferenceDay.parse(DAY), run_id=name, code_version="test")
        self.returning = self.returning - {name} | ({name} if reason == "restore" else set())
        work = MemoryStore()
        inputs = make_inputs(context, ROWS[content], work, hour=through)
        references = replace(inputs.flatten.references, cnes_competencia=cnes, cnes_choice="newest")
        inputs = replace(inputs, flatten=replace(inputs.flatten, references=references))

        def publish(walk: Store, deaths: int, carry: Any) -> str:
            receipt = publish_day(
                context,
                inputs=inputs,
                work=work,
                public=self._bucket(walk),
                engine=EngineSettings(scratch_dir=self.folder),
                now=_clock(through, deaths),
                reason=reason,
            )
            return replace(receipt, seconds=0).to_json()

        def reconcile(walk: Store, deaths: int, carry: Any) -> str:
            bucket, published = self._bucket(walk), PublishReceipt.from_json(carry)
            reconcile_day(context, published=published, public=bucket, work=MemoryStore(), now=_clock(through, deaths))
            return published.outcome

        return Writer(name, [_red(publish), _red(reconcile)])

    def person(self, name: str) -> Writer:
        """Somebody who takes the day back."""

        def run(walk: Store, deaths: int, carry: Any) -> str:
            return withdraw(self._bucket(walk), DAY, token=name)

        return Writer(name, [_red(run)])

    def before(self, *steps: tuple[str, int] | str) -> dict[str, bytes]:
        """The shared keys after these runs (content, hour) and withdrawals (`person`), one after the other."""
        store = MemoryStore(self.common | {})
        day = SmallDay(DAY, MemoryStore(), store, self.folder)
        for step in steps:
            if isinstance(step, str):
                withdraw(store, DAY, token=step)
                continue
            content, day.hour = step
            context = day.context(f"{content}{day.hour}")
            run = context, make_inputs(context, ROWS[content], day.work, hour=day.hour)
            day.reconcile(context, day.publish(*run))
        self.common |= {key: body for key, body in store.objects.items() if "/diff/" in key}
        return {key: store.objects[key] for key in self.keys if key in store.objects}

    def walk(self, *writers: Writer, stored: Mapping[str, bytes], **faults: int) -> Report:
        """Walk all states of these writers."""
        with self._still():
            return Explorer(writers, [self._judge], keys=self.keys, stored=stored, **faults).run()

    def _bucket(self, walk: Store) -> _WalkedStore:
        return _WalkedStore(self.common, frozenset(self.keys), walk, self.etags)

    @contextmanager
    def _still(self) -> Iterator[None]:
        """Without log, without probe (its keys are random), with the page of the dictionary rendered once, and without a look through
        the manifests of a content folder: nobody changes them here.
        """
        logging.disable(logging.CRITICAL)
        try:
            with ExitStack() as patches:
                for name, answer in (
                    ("probe_store", None),
                    ("publish_dictionary", self._page),
                    ("_require_manifests", None),
                    ("_describe_content", b""),
                ):
                    patches.enter_context(mock.patch(f"imunizacao.publish.{name}", return_value=answer))
                yield
        finally:
            logging.disable(logging.NOTSET)

    def _judge(self, world: World) -> str:
        told = World(
            stored=self.as_model(world.stored),
            before=self.as_model(world.before),
            ended=world.ended,
            final=world.final,
        )
        wrong = next((wrong for check in model.INVARIANTS if (wrong := check(told))), "")
        return wrong or (self._catalog(world) if world.final and self.catalog else "")

    def as_model(self, stored: Mapping[str, bytes]) -> dict[str, Any]:
        """Head and index in the words of the model; every folder is there and whole."""
        told: dict[str, Any] = {f"{kind} {name}": name for name in ROWS for kind in ("data", "manifest")}
        head, index = stored[HEAD], stored[INDEX]
        told["head"] = head and tell_head(head, names=self.contents, returning=self.returning)
        told["index"] = index and tell_index(index, DAY, names=self.contents)
        return told

    def _catalog(self, world: World) -> str:
        index, catalog = world.stored[INDEX], world.stored[CATALOG]
        if index is None or catalog is None:
            return "" if index is catalog else "an index without a catalog, or a catalog without an index"
        rows = sum(row["rows"] for row in json.loads(index)["days"])
        told = json.loads(catalog)["totals"]["rows"]
        return f"stale catalog: {told} doses beside {rows}" if told != rows else ""


def _red(stage: Callable[[Store, int, Any], Any]) -> Callable[[Store, int, Any], Any]:
    """A task that fails is run again, as often as the walk lets a writer die."""

    def run(walk: Store, deaths: int, carry: Any) -> Any:
        try:
            return stage(walk, deaths, carry)
        except _RED:
            raise GivesUp from None

    return run


def _clock(through: int, deaths: int) -> Callable[[], datetime]:
    at = datetime(2026, 3, 16, through, 30, tzinfo=UTC) + timedelta(minutes=deaths)
    return lambda: at


DERIVED = ("catalog.json", "catalog.jsonld", "bulk-publish.json")
"""Made again from heads and month index at any time: not walked where they are not what a scene is about."""
