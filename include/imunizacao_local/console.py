"""What a person sees: one line per step with the seconds it took, a spinner only on a terminal."""

from __future__ import annotations

import itertools
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, TextIO

_FRAMES: Final = "|/-\\"
_FRAME_SECONDS: Final = 0.15


class Step:
    """One step in progress; `detail` is shown beside it now and when it ended."""

    def __init__(self) -> None:
        self.detail = ""


class Console:
    """Writes progress to a stream, line by line; on a terminal the last line moves."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._moves = self._stream.isatty()
        self._lock = threading.Lock()

    def line(self, text: str = "") -> None:
        """Write one line."""
        with self._lock:
            self._clear()
            self._stream.write(f"{text}\n")
            self._stream.flush()

    @contextmanager
    def step(self, text: str) -> Iterator[Step]:
        """Show a step while the block runs, then its line: `[  ok  ] PostgreSQL  port 55432   1.2 s`."""
        step = Step()
        began = time.monotonic()
        done = threading.Event()
        spinner = threading.Thread(target=self._spin, args=(text, step, began, done), daemon=True)
        if self._moves:
            spinner.start()
        mark = "failed"
        try:
            yield step
            mark = "  ok  "
        except KeyboardInterrupt:
            mark = "stopped"
            raise
        finally:
            done.set()
            if self._moves:
                spinner.join()
            seconds = time.monotonic() - began
            self.line(f"[{mark}] {text:<24} {step.detail:<44} {seconds:6.1f} s")

    def _spin(self, text: str, step: Step, began: float, done: threading.Event) -> None:
        for frame in itertools.cycle(_FRAMES):
            with self._lock:
                self._clear()
                seconds = time.monotonic() - began
                self._stream.write(f"[  {frame}   ] {text:<24} {step.detail:<44} {seconds:6.1f} s"[:118])
                self._stream.flush()
            if done.wait(_FRAME_SECONDS):
                return

    def _clear(self) -> None:
        if self._moves:
            self._stream.write("\r\x1b[2K")
