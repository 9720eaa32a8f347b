"""Processes that outlive the command that started them, found again by pid and start time.

A pid alone proves nothing after a crash: the kernel hands it out again. So the pid file keeps the start time too, and a
process that does not match is never signalled.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from imunizacao_local.errors import LocalError
from imunizacao_local.files import make_private_folder, read_json, write_json

POLL_SECONDS = 0.1
LOG_LIMIT_BYTES = 20 * 1024 * 1024
_PROC = Path("/proc")
_STRIPPED_PREFIXES = (
    "AIRFLOW",
    "IMUNIZACAO",
    "AWS_",
    "S3_",
    "WEED_",
    "PG",
    "PYTHON",
    "_PYTHON",
    "VIRTUAL_ENV",
    "NO_PROXY",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessInfo:
    """One live process: its identity (pid, start) and its session. `start` is only ever compared for equality."""

    pid: int
    start: str
    session: int


def describe_process(pid: int) -> ProcessInfo | None:
    """Return the identity of a live process; None when there is none or it is a zombie."""
    if (_PROC / "self" / "stat").exists():
        return _describe_by_proc(pid)
    return _describe_by_ps(pid)


def _describe_by_proc(pid: int) -> ProcessInfo | None:
    try:
        stat = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name, second field, may hold spaces and brackets: count from its last closing bracket (proc_pid_stat(5)).
    fields = stat.rpartition(")")[2].split()
    if fields[0] in {"Z", "X"}:
        return None
    return ProcessInfo(pid=pid, start=fields[19], session=int(fields[3]))


def _describe_by_ps(pid: int) -> ProcessInfo | None:
    """The same where there is no /proc. `sess` is an address on macOS, the group id is what a session leader shares."""
    command = ["ps", "-o", "state=,pgid=,lstart=", "-p", str(pid)]
    environment = {**os.environ, "LC_ALL": "C"}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    fields = result.stdout.split()
    if not fields or fields[0].startswith("Z"):
        return None
    return ProcessInfo(pid=pid, start=" ".join(fields[2:]), session=int(fields[1]))


def session_members(session: int) -> list[ProcessInfo]:
    """List the live processes of a session (those that a process started with its own session has begotten)."""
    if (_PROC / "self" / "stat").exists():
        pids = [int(folder.name) for folder in _PROC.iterdir() if folder.name.isdigit()]
    else:
        output = subprocess.run(["ps", "-axo", "pid="], capture_output=True, text=True, check=True)
        pids = [int(pid) for pid in output.stdout.split()]
    infos = (describe_process(pid) for pid in pids)
    return [info for info in infos if info is not None and info.session == session]


def working_folder(pid: int) -> Path | None:
    """Return the current folder of a live process; None when there is none or it is another user's."""
    try:
        if (_PROC / "self").exists():
            return (_PROC / str(pid) / "cwd").readlink()
        output = subprocess.run(
            ["lsof", "-a", "-p", str(pid), "-d", "cwd", "-Fn"],
            capture_output=True,
            text=True,
            check=False,
        ).stdout
    except OSError:
        return None
    names = [line[1:] for line in output.splitlines() if line.startswith("n")]
    return Path(names[0]) if names else None


def send_signal(info: ProcessInfo, number: signal.Signals) -> bool:
    """Signal exactly this process; False when it is gone (or its pid now belongs to another)."""
    if describe_process(info.pid) != info:
        return False
    try:
        os.kill(info.pid, number)
    except ProcessLookupError:
        return False
    return True


def inherited_environment() -> dict[str, str]:
    """Return the caller's environment without what would reconfigure our servers behind our back.

    For example AWS_ACCESS_KEY_ID would add an administrator to the object store, PGHOST send psql elsewhere, and a proxy
    catch calls to loopback.
    """
    kept = {key: value for key, value in os.environ.items() if not key.upper().startswith(_STRIPPED_PREFIXES)}
    kept["NO_PROXY"] = kept["no_proxy"] = "127.0.0.1,localhost"
    return kept


class ManagedProcess:
    """One background process with a pid file and a log in `folder`.

    `start` is idempotent: with the same command and settings it changes nothing, with others it restarts the process.
    """

    def __init__(self, *, name: str, folder: Path) -> None:
        self.name = name
        self._folder = folder
        self.log = folder / f"{name}.log"
        self._record = folder / f"{name}.pid.json"
        self._child: int | None = None
        self._exit_code: int | None = None

    def find(self) -> ProcessInfo | None:
        """Return the live process this folder knows of, if it is still the same one."""
        self._reap()
        record = read_json(self._record)
        if record is None:
            return None
        info = describe_process(_as_int(record["pid"], self._record))
        return info if info is not None and info.start == record["start"] else None

    def runs(self, command: Sequence[str], settings: Mapping[str, str]) -> bool:
        """Tell whether the live process was started with exactly this command and settings."""
        record = read_json(self._record)
        return (
            self.find() is not None and record is not None and record["fingerprint"] == _fingerprint(command, settings)
        )

    def start(
        self,
        command: Sequence[str],
        *,
        settings: Mapping[str, str],
        stop_seconds: float,
    ) -> bool:
        """Start the process in a session of its own; return False when it ran already and was left alone.

        It works in the folder of this object. `settings` are environment variables on top of `inherited_environment()`.
        """
        if self.runs(command, settings):
            return False
        self.stop(seconds=stop_seconds)
        make_private_folder(self.log.parent)
        _rotate(self.log)
        descriptor = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "ab", buffering=0) as log:
            log.write(f"--- {self.name}: {shlex.join(command)}\n".encode())
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                env=inherited_environment() | dict(settings),
                start_new_session=True,
            )
        self._child, self._exit_code = child.pid, None
        # It outlives this object on purpose, of which Popen would warn when it is collected; `_reap` waits for it instead.
        child.returncode = 0
        info = describe_process(self._child)
        if info is None:
            self._reap()
            raise self.died()
        write_json(
            self._record,
            {
                "pid": info.pid,
                "start": info.start,
                "fingerprint": _fingerprint(command, settings),
            },
        )
        return True

    def stop(self, *, seconds: float) -> bool:
        """End the process and what it started: SIGTERM to it, `seconds` later SIGKILL to all. False when not running.

        Returns only when every process is gone, so that its ports and files can be used again.
        """
        info = self.find()
        if info is not None:
            send_signal(info, signal.SIGTERM)
            self._wait_gone([info], seconds)
        # What the leader left behind, also when it died by itself, and the leader when it did not listen.
        members = self._members()
        for member in members:
            send_signal(member, signal.SIGKILL)
        if not self._wait_gone(members, seconds):
            raise LocalError(
                f"{self.name} is still there {seconds:.0f} s after SIGKILL: pids {[member.pid for member in members]}",
                next_step="look for a hung disk or a traced process, then run the command again",
                log=self.log,
            )
        self._record.unlink(missing_ok=True)
        return info is not None or bool(members)

    def _members(self) -> list[ProcessInfo]:
        """List the live processes of the recorded session that work in our folder.

        A dead leader's pid is not given out while its session has members, so these are ours; the folder settles it even
        after a reboot.
        """
        record = read_json(self._record)
        if record is None:
            return []
        members = session_members(_as_int(record["pid"], self._record))
        return [member for member in members if working_folder(member.pid) == self._folder]

    def died(self) -> LocalError:
        """The error to raise when the process is expected to run and does not."""
        self._reap()
        how = "" if self._exit_code is None else f" with exit code {self._exit_code}"
        return LocalError(
            f"{self.name} ended{how} while it was starting",
            next_step="mend what its last lines say, then run the command again",
            log=self.log,
        )

    def _reap(self) -> None:
        """Take the exit code of a child of this process that ended: otherwise it would stay as a zombie."""
        if self._child is None:
            return
        try:
            pid, status = os.waitpid(self._child, os.WNOHANG)
        except ChildProcessError:
            self._child = None
            return
        if pid != 0:
            self._child, self._exit_code = None, os.waitstatus_to_exitcode(status)

    def _wait_gone(self, infos: Sequence[ProcessInfo], seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while True:
            self._reap()
            if all(describe_process(info.pid) != info for info in infos):
                return True
            if time.monotonic() >= deadline:
                return False
            time.sleep(POLL_SECONDS)


def _fingerprint(command: Sequence[str], settings: Mapping[str, str]) -> str:
    """Hash of the command and its settings: the record tells a change without keeping secrets."""
    digest = hashlib.sha256()
    for part in (*command, *(f"{key}={settings[key]}" for key in sorted(settings))):
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()


def _as_int(value: object, source: Path) -> int:
    if isinstance(value, int):
        return value
    raise LocalError(
        f"{source} holds {value!r} where a process id was expected",
        next_step=f"delete {source}; if the process still runs, end it by hand",
    )


def _rotate(log: Path) -> None:
    """Keep one older log of at most the same size."""
    if log.exists() and log.stat().st_size > LOG_LIMIT_BYTES:
        log.replace(log.with_suffix(".log.1"))
