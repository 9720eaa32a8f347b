"""A few bytes in memory and a range of a local file as one body to send: no copy on disk, no large copy in memory."""

from __future__ import annotations

import io
from pathlib import Path
from typing import IO


class FileSlice(io.RawIOBase):
    """`head` followed by `length` bytes of `path` from `offset`; readable and seekable, as an upload needs it."""

    def __init__(self, head: bytes, path: Path, *, offset: int, length: int) -> None:
        super().__init__()
        self._head, self._offset = head, offset
        self._size = len(head) + length
        self._file: IO[bytes] = path.open("rb")
        self._at = 0

    def readable(self) -> bool:
        """It can be read."""
        return True

    def seekable(self) -> bool:
        """It can be read again, which a retry needs."""
        return True

    def tell(self) -> int:
        """Position of the next read."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move the position, never outside the body."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = min(max(base + offset, 0), self._size)
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        """Up to `size` bytes from the position."""
        end = self._size if size is None or size < 0 else min(self._at + size, self._size)
        top = len(self._head)
        blocks = [self._head[self._at : min(end, top)]]
        if end > top:
            begin = max(self._at, top)
            self._file.seek(self._offset + begin - top)
            blocks.append(self._file.read(end - begin))
        self._at = end
        return b"".join(blocks)

    def __len__(self) -> int:
        return self._size

    def close(self) -> None:
        """Close the local file."""
        self._file.close()
        super().close()
