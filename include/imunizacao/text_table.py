"""Tables for people in a terminal."""

from __future__ import annotations

from collections.abc import Sequence


def text_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Header, rule and rows: columns as wide as their widest value; numbers to the right."""
    cells = [[str(value) for value in row] for row in rows]
    widths = [max([len(title), *(len(row[place]) for row in cells)]) for place, title in enumerate(header)]
    numbers = [
        bool(rows) and all(isinstance(row[place], int) or row[place] == "" for row in rows)
        for place in range(len(header))
    ]

    def line(values: Sequence[str]) -> str:
        return "  ".join(
            value.rjust(width) if number else value.ljust(width)
            for value, width, number in zip(values, widths, numbers, strict=True)
        ).rstrip()

    return "\n".join([line(header), line(["-" * width for width in widths]), *(line(row) for row in cells)])
