"""Months of published days as archives that stand on their own (ADR 0031)."""

from imunizacao.archive.bagit import Bag, export_month

__all__ = ["Bag", "export_month"]
