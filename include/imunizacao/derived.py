"""All that is derived from the head of a day, brought up to date at once: month index, `$bulk-publish` manifest, catalog, DCAT."""

from __future__ import annotations

from imunizacao.bulk_publish import update_bulk
from imunizacao.dcat import update_dcat
from imunizacao.indexes import follow_in_indexes
from imunizacao.storage import ObjectStore


def follow_head(public: ObjectStore, day: str) -> None:
    """Bring everything derived up to date with a head that was moved by something else than a publication.

    What the catalog offers stays; a catalog that does not exist is left to the next publication.
    """
    update_bulk(public, day)
    follow_in_indexes(public, day)
    update_dcat(public)
