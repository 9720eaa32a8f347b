"""The only door to DuckDB."""

from imunizacao.sql.engine import Engine, open_engine

__all__ = ["Engine", "open_engine"]
