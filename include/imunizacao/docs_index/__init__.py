"""The index of the Data Docs by day, `v1/docs/index.html` of the work bucket: verdict, publication, counts and warnings."""

from imunizacao.docs_index.index import DOCS, INDEX_KEY, docs_key, note_verdict, rebuild_index, update_index

__all__ = ["DOCS", "INDEX_KEY", "docs_key", "note_verdict", "rebuild_index", "update_index"]
