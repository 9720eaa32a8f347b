"""TCP ports on loopback: free ones for tests, busy ones explained to people."""

from __future__ import annotations

import errno
import shutil
import socket
import subprocess
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

from imunizacao_local.errors import LocalError

LOOPBACK = "127.0.0.1"
HIGHEST_PORT = 65535
_LISTEN = "0A"
_ATTEMPTS = 200
_RELEASE_SECONDS = 5


def free_ports(count: int, *, also: Sequence[int] = ()) -> list[int]:
    """Return `count` different ports that are free now, as is `port + offset` for each offset in `also`.

    All are held open until the last is found, so they differ from each other; another process can still take one before
    it is used.
    """
    found: list[int] = []
    with ExitStack() as held:
        for _ in range(_ATTEMPTS):
            if len(found) == count:
                return found
            candidate = _listen(held, 0)
            if candidate is None or candidate + max(also, default=0) > HIGHEST_PORT:
                continue
            if all(_listen(held, candidate + offset) is not None for offset in also):
                found.append(candidate)
    raise LocalError(
        f"No {count} free loopback ports found in {_ATTEMPTS} attempts",
        next_step="close programs that hold many ports, then try again",
    )


def _listen(held: ExitStack, port: int) -> int | None:
    """Bind `port` (0: any) until `held` closes; None when it is taken."""
    sock = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
    try:
        sock.bind((LOOPBACK, port))
    except OSError as error:
        if error.errno in {errno.EADDRINUSE, errno.EACCES}:
            return None
        raise
    return int(sock.getsockname()[1])


def is_free(port: int) -> bool:
    """Tell whether a server could listen on `port` of loopback now. Connections that linger in TIME_WAIT do not count."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((LOOPBACK, port))
            sock.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise LocalError(
                f"Port {port} cannot be used: {error.strerror}",
                next_step="choose another port (1024 or above)",
            ) from error
    return True


def require_free(port: int, *, what: str, option: str) -> None:
    """Raise LocalError when `port` is taken: by whom, and which option chooses another one.

    A port is given five seconds: the sockets of a killed server close a moment after it.
    """
    deadline = time.monotonic() + _RELEASE_SECONDS
    while not is_free(port):
        if time.monotonic() > deadline:
            raise LocalError(
                f"Port {port} for {what} is taken by {describe_owner(port)}",
                next_step=f"stop it, or choose another port with {option}",
            )
        time.sleep(0.1)


def describe_owner(port: int) -> str:
    """Say who listens on `port`: "pid 4711 (postgres)", or that it is not visible to this user."""
    pid = _owner_by_proc(port) if Path("/proc/net/tcp").exists() else _owner_by_lsof(port)
    if pid is None:
        return "a process this user cannot see"
    try:
        name = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip()
    except OSError:
        return f"pid {pid}"
    return f"pid {pid} ({name})"


def _owner_by_proc(port: int) -> int | None:
    inodes = set(_listening_inodes(port))
    if not inodes:
        return None
    targets = {f"socket:[{inode}]" for inode in inodes}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            descriptors = list((folder / "fd").iterdir())
        except OSError:
            continue  # another user's process, or one that just ended
        for descriptor in descriptors:
            try:
                if str(descriptor.readlink()) in targets:
                    return int(folder.name)
            except OSError:
                continue  # closed since the listing
    return None


def _listening_inodes(port: int) -> Iterable[str]:
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            rows = Path(table).read_text(encoding="ascii").splitlines()[1:]
        except FileNotFoundError:
            continue  # a kernel without IPv6
        for row in rows:
            fields = row.split()
            if fields[3] == _LISTEN and int(fields[1].rsplit(":", 1)[1], 16) == port:
                yield fields[9]


def _owner_by_lsof(port: int) -> int | None:
    lsof = shutil.which("lsof")
    if lsof is None:
        return None
    command = [lsof, "-nP", f"-iTCP:{port}", "-sTCP:LISTEN", "-t"]
    output = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    return int(output[0]) if output else None
