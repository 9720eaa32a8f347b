"""The one error people see: what happened, what to do next, where to read more."""

from __future__ import annotations

from pathlib import Path

LOG_TAIL_LINES = 12
_TAIL_BYTES = 64 * 1024


class LocalError(Exception):
    """An expected failure of the local stack. The command prints it without a traceback.

    `what` says what happened with expected and found values, `next_step` what the reader should do, `log` where the
    process wrote its own account (its last lines are printed too).
    """

    def __init__(self, what: str, *, next_step: str, log: Path | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.next_step = next_step
        self.log = log

    def __str__(self) -> str:
        lines = [self.what]
        if self.log is not None:
            lines += [f"  | {line}" for line in tail(self.log)]
            lines.append(f"Log: {self.log}")
        lines.append(f"Next step: {self.next_step}")
        return "\n".join(lines)


def tail(path: Path, lines: int = LOG_TAIL_LINES) -> list[str]:
    """Return the last lines of a text file, [] when it is absent. Reads at most 64 KiB, however large the file."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL_BYTES))
            content = file.read()
    except FileNotFoundError:
        return []
    return content.decode("utf-8", "replace").splitlines()[-lines:]
