"""A bucket with a few small days, published by the product into the real S3 server once, and a copy of it for every test."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from imunizacao.settings import StorageSettings
from imunizacao.storage import ObjectStore, open_public_store, open_work_store
from imunizacao_local.seaweed import SeaweedServer
from tests.support.buckets import fresh_buckets
from tests.support.small_day import SmallDay
from tests.support.tree import Tree, head
from tests.support.whole_doses import whole_dose

DAY, EMPTY, PENDING, PLAIN = "2026-03-14", "2026-03-15", "2026-03-16", "2026-03-17"
"""Three revisions with residents; no doses; not published; one revision without residents."""
MONTH = "v1/months/2026-03/index.json"
NAMES = {"no_fantasia_estalecimento": 'Posto "A"; sala 1', "co_lote_vacina": "'=1+1", "ds_vacina_fabricante": "Saúde"}


def doses(day: str, revision: int) -> list[dict[str, str]]:
    """Rows of a revision: some in two municipalities of one UF, some moved, changed, added and removed later."""
    rows = [
        whole_dose("a1", "530010", day, residence="530010"),
        whole_dose("a2", "530010", day, residence="350010", **NAMES),
        whole_dose("b1", "350010", day, residence="355030"),
        whole_dose("b2", "355030", day),
        whole_dose("b3", "355030", day, residence="530010"),
        whole_dose("c1", "120040" if revision < 3 else "350010", day),
    ]
    if revision > 1:
        rows += [whole_dose("b4", "355030", day, residence="350010")]
        rows[2]["co_lote_vacina"] = "L2"
    return rows[1:] if revision > 2 else rows


@dataclass(frozen=True)
class Published:
    """The bucket, and what could change in it after each publication."""

    settings: StorageSettings
    stages: list[dict[str, bytes]]

    @property
    def bucket(self) -> str:
        """Its name."""
        return self.settings.public_bucket

    def show(self, stage: int) -> None:
        """Let the bucket look as it did after a publication; -1 is the last."""
        public = open_public_store(self.settings)
        for key, body in self.stages[stage].items():
            public.put(key, body, content_type="application/json", cache_control="max-age=10")


@pytest.fixture(scope="package")
def published(s3_server: SeaweedServer) -> Iterator[Published]:
    """The bucket. Who changes it shows the last stage again."""
    with fresh_buckets(s3_server) as settings, tempfile.TemporaryDirectory() as folder:
        work, public = open_work_store(settings), open_public_store(settings)
        stages: list[dict[str, bytes]] = []

        def keep() -> None:
            heads = [head(day) for day in (DAY, EMPTY, PLAIN)]
            found = [public.get_or_none(key) for key in ("v1/catalog.json", MONTH, *heads)]
            stages.append({stored.key: stored.body for stored in found if stored is not None})

        day = SmallDay(DAY, work, public, Path(folder))
        for revision in (1, 2, 3):
            day.revise(doses(DAY, revision), removed=["gone-1-i0b0", "gone-2-i0b0"][: revision - 1])
            keep()
        SmallDay(EMPTY, work, public, Path(folder)).revise([])
        places = (("a1", "530010"), ("b2", "355030"), ("d1", "355030"))
        plain = [whole_dose(document, place, PLAIN) for document, place in places]
        SmallDay(PLAIN, work, public, Path(folder)).revise(plain, removed=["b1-i0b0"])
        keep()
        yield Published(settings, stages)


def let_anybody_read(server: SeaweedServer, bucket: str, *, allowed: bool = True) -> None:
    """Allow plain GETs without keys, or not."""
    client = server.client(server.pipeline_credentials)
    if not allowed:
        with suppress(ClientError):  # there may be none
            client.delete_bucket_policy(Bucket=bucket)
        return
    resource = [f"arn:aws:s3:::{bucket}/*"]
    statement = {"Effect": "Allow", "Principal": "*", "Action": ["s3:GetObject"], "Resource": resource}
    policy = {"Version": "2012-10-17", "Statement": [statement]}
    client.put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))


@pytest.fixture(scope="package")
def copied(published: Published) -> dict[str, bytes]:
    """All its objects."""
    public: ObjectStore = open_public_store(published.settings)
    return {info.key: public.get(info.key).body for info in public.list("v1/")}


@pytest.fixture
def tree(copied: dict[str, bytes]) -> Tree:
    """A copy to damage."""
    return Tree(copied)
