"""The only door to DuckDB."""

from imunizacao.sql.engine import Engine, Parameter, open_engine

__all__ = ["Engine", "Parameter", "open_engine"]
