"""Real containers: an engine, what a test starts in it, and nothing of that left afterwards."""

import base64
import os
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from support.command import CommandResult

ROOT = Path(__file__).parents[2]
DATA = "/app/data"
BACKUPS = "/backups"
HARDENED = (
    "--read-only",
    "--tmpfs=/tmp",
    "--cap-drop=ALL",
    "--cap-add=CHOWN",
    "--cap-add=SETUID",
    "--cap-add=SETGID",
    "--cap-add=KILL",
    "--security-opt=no-new-privileges",
    "--memory=256m",
    "--pids-limit=64",
)
# Requests a URL until the answer is 200, for so many seconds at most; one process asks more cheaply than many.
_ASK = """
import sys, time, urllib.request as r
from http.client import HTTPException
until = time.monotonic() + float(sys.argv[2])
while True:
    try: sys.exit(r.urlopen(sys.argv[1], timeout=5).status != 200)
    except (OSError, HTTPException) as error:
        if time.monotonic() > until: sys.exit(str(error))
    time.sleep(0.05)
"""
_LABEL = "--label=backupd.e2e"
T = TypeVar("T")


def wait_until(condition: Callable[[], T], what: str, timeout_s: float = 30) -> T:
    """Return the first true value of `condition`, asked again and again. Raises AssertionError after `timeout_s`.

    The longer it lasts the more rarely it asks: each question starts a command of the engine, or more.
    """
    began = time.monotonic()
    while not (value := condition()):
        waited = time.monotonic() - began
        assert waited < timeout_s, f"{what}: not within {timeout_s} s"
        time.sleep(min(0.05 + waited / 10, 0.5))
    return value


def docker(
    *arguments: str | Path, check: bool = True, timeout_s: float = 120, stdin: str | None = None
) -> CommandResult:
    """Run `docker ARGUMENTS` against the engine that DOCKER_HOST names. Raises AssertionError when it fails."""
    done = subprocess.run(
        [docker_program(), *map(str, arguments)],
        env={**os.environ, "DOCKER_BUILDKIT": "1"},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert not check or done.returncode == 0, f"docker {' '.join(map(str, arguments))}: {done.stderr}"
    return CommandResult(done.returncode, done.stdout, done.stderr)


def open_page(address: str, token: str) -> tuple[int, str]:
    """Ask for the page at HOST:PORT with `token` as password; return status and body, 0 where nothing answers."""
    password = base64.b64encode(f"operator:{token}".encode()).decode()
    asked = urllib.request.Request(f"http://{address}/", headers={"Authorization": f"Basic {password}"})
    try:
        with urllib.request.urlopen(asked, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""
    except OSError:
        return 0, ""


def mountpoint(volume: str) -> Path | None:
    """Return the directory of a volume, `None` where it is out of reach, as without root."""
    path = Path(docker("volume", "inspect", "--format={{.Mountpoint}}", volume).out.strip())
    return path if os.access(path, os.R_OK | os.W_OK | os.X_OK) else None


def no_engine() -> str | None:
    """Say why there is no engine to test with, `None` where there is one."""
    if docker_program() is None:
        return "needs a container engine: there is no docker command"
    if docker("version", check=False, timeout_s=20).code != 0:
        return "needs a container engine: start one, and set DOCKER_HOST"
    return None


def build(directory: Path, *command: str) -> str:
    """Build the image of `directory` (with `command`, if it is not plain `docker build`); return its id."""
    done = subprocess.run(
        # --network=host, since an engine may have no network of its own
        [*(command or (docker_program() or "docker", "build", ".")), "--quiet", "--network=host"],
        env={**os.environ, "DOCKER_BUILDKIT": "1"},
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=540,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout.strip().splitlines()[-1]


@dataclass(frozen=True)
class Container:
    """A container that was started, by its name, which is also its name on its networks."""

    name: str

    def exec(self, *command: str, options: Sequence[str] = (), timeout_s: float = 120) -> CommandResult:
        """Run `command` inside."""
        return docker("exec", *options, self.name, *command, check=False, timeout_s=timeout_s)

    def python(self, program: str) -> str:
        """Run a Python program inside, as the user of the container, and return what it printed."""
        answer = self.exec("python", "-c", program)
        assert answer.code == 0, answer.err
        return answer.out.strip()

    def get(self, url: str) -> tuple[int, str]:
        """Ask for `url` from inside; return status and body, (0, reason) without a response."""
        program = (
            "import json, sys, urllib.request as r, urllib.error as e\n"
            "try: a = r.urlopen(sys.argv[1], timeout=5); print(json.dumps([a.status, a.read().decode()]))\n"
            "except e.HTTPError as error: print(json.dumps([error.code, error.read().decode()]))\n"
            "except OSError as error: print(json.dumps([0, str(error)]))"
        )
        status, body = self.exec("python", "-c", program, url).json
        return status, body

    def answers(self, url: str, timeout_s: float = 60) -> None:
        """Wait until it answers `url` from inside with success. Raises AssertionError after `timeout_s`."""
        answer = self.exec("python", "-c", _ASK, url, str(timeout_s), timeout_s=timeout_s + 60)
        assert answer.code == 0, f"{url}: {answer.err}\n{self.logs()}"

    def logs(self) -> str:
        """Return all that it wrote to standard output and error so far."""
        answer = docker("logs", self.name)
        return answer.out + answer.err

    def said(self, text: str, timeout_s: float = 60) -> None:
        """Wait until it has written `text` in a line. Raises AssertionError after `timeout_s`, or when it has ended."""
        command = [docker_program() or "docker", "logs", "--follow", self.name]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as following:
            timer = threading.Timer(timeout_s, following.kill)
            timer.start()
            assert following.stdout is not None
            found = any(text in line for line in following.stdout)
            timer.cancel()
            following.kill()
        assert found, f"{text!r} is not in the logs within {timeout_s} s:\n{self.logs()}"

    def inspect(self) -> Any:
        """Return what the engine knows about it."""
        return docker("inspect", self.name).json[0]

    def health(self) -> str:
        """Return "starting", "healthy" or "unhealthy"."""
        status: str = self.inspect()["State"]["Health"]["Status"]
        return status

    def is_running(self) -> bool:
        return bool(self.inspect()["State"]["Running"])

    def kill(self, signal: str = "KILL") -> None:
        """Send `signal` to its first process."""
        docker("kill", f"--signal={signal}", self.name)

    def stop(self, timeout_s: int = 10) -> tuple[int, float]:
        """Stop it as `docker stop` does; return its exit code and how many seconds it took."""
        began = time.monotonic()
        docker("stop", f"--time={timeout_s}", self.name)
        return self.inspect()["State"]["ExitCode"], time.monotonic() - began


class ContainerLab:
    """Starts containers, volumes and networks under names of their own; all are gone when the block ends."""

    def __init__(self, image: str, app_image: str) -> None:
        self.image = image
        self.app_image = app_image
        self._prefix = f"backupd-e2e-{uuid.uuid4().hex[:8]}"
        self._count = 0
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stack.close()

    def volume(self) -> str:
        """Return the name of a new volume, empty and root's."""
        name = self._name("volume")
        docker("volume", "create", _LABEL, name)
        self._stack.callback(docker, "volume", "rm", "--force", name, check=False)
        return name

    def network(self) -> str:
        """Return the name of a new network, on which containers find each other by name."""
        name = self._name("network")
        docker("network", "create", _LABEL, name)
        self._stack.callback(docker, "network", "rm", name, check=False)
        return name

    def reserved(self) -> Container:
        """Return the name of a container that the test starts by itself; it is gone when the block ends."""
        container = Container(self._name("container"))
        self._stack.callback(docker, "rm", "--force", "--volumes", container.name, check=False)
        return container

    def start(
        self, image: str, *command: str, options: Sequence[str] = (), environ: Mapping[str, str] | None = None
    ) -> Container:
        """Start a container in the background."""
        container = self.reserved()
        docker("run", "--detach", "--name", container.name, _LABEL, *options, *_env(environ), image, *command)
        return container

    def run(
        self,
        image: str,
        *command: str,
        options: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
        timeout_s: float = 120,
    ) -> CommandResult:
        """Run a container to its end and return what it answered."""
        name = self._name("container")
        self._stack.callback(docker, "rm", "--force", "--volumes", name, check=False)
        options = ("--rm", "--name", name, _LABEL, *options, *_env(environ))
        return docker("run", *options, image, *command, check=False, timeout_s=timeout_s)

    def app(self, volume: str, *, options: Sequence[str] = (), **environ: str) -> Container:
        """Start the sample app on `volume`, and wait until it answers. WRITE_EVERY_MS="5" keeps it writing."""
        app = self.start(self.app_image, options=(f"--volume={volume}:{DATA}", *options), environ=environ)
        app.answers("http://127.0.0.1:8000/health")
        return app

    def sidecar(
        self, volume: str, *command: str, backups: str | None = None, options: Sequence[str] = (), **environ: str
    ) -> Container:
        """Start backupd beside the app of `volume`: the daemon, or another `command`."""
        options, environ = self._beside(volume, backups, options, environ)
        return self.start(self.image, *command, options=options, environ=environ)

    def backupd(
        self, volume: str, *command: str, backups: str | None = None, options: Sequence[str] = (), **environ: str
    ) -> CommandResult:
        """Run one `backupd` command beside the app of `volume`; backups go to `backups`, or beside the database."""
        options, environ = self._beside(volume, backups, options, environ)
        return self.run(self.image, *command, options=options, environ=environ)

    def copy(self, volume: str) -> str:
        """Return the name of a new volume with all that is in `volume`."""
        name = self.volume()
        if (source := mountpoint(volume)) and (target := mountpoint(name)):
            subprocess.run(["cp", "-a", f"{source}/.", target], check=True)
        else:
            self.shell(name, "cp -a /source/. .", f"--volume={volume}:/source")
        return name

    def files(self, volume: str) -> dict[str, str]:
        """Return "UID:GID MODE" of everything in `volume`, which itself is "." ."""
        if root := mountpoint(volume):
            found = {}
            for path in (root, *root.rglob("*")):
                with suppress(FileNotFoundError):  # it was there a moment ago
                    state = path.lstat()
                    found[str(path.relative_to(root))] = f"{state.st_uid}:{state.st_gid} {state.st_mode & 0o7777:o}"
            return found
        find = ("find", "/volume", "-printf", "%P\\t%U:%G %m\n")
        answer = self.run(self.image, *find[1:], options=(f"--entrypoint={find[0]}", f"--volume={volume}:/volume"))
        assert answer.code == 0, answer.err
        lines = (line.split("\t") for line in answer.out.splitlines())
        return {name or ".": rights for name, rights in lines}

    def shell(self, volume: str, script: str, *options: str) -> str:
        """Run a shell script as root with `volume` as its working directory; return what it printed."""
        mount = (f"--volume={volume}:/volume", "--workdir=/volume", "--entrypoint=sh")
        answer = self.run(self.image, "-euc", script, options=(*mount, *options))
        assert answer.code == 0, answer.err
        return answer.out

    def _beside(
        self, volume: str, backups: str | None, options: Sequence[str], environ: Mapping[str, str]
    ) -> tuple[tuple[str, ...], dict[str, str]]:
        mounts = [f"--volume={volume}:{DATA}"]
        settings = {"BACKUPD_DATABASE": f"{DATA}/tasks.db", "BACKUPD_SPACE__RESERVE": "0"}
        if backups is not None:
            mounts.append(f"--volume={backups}:{BACKUPS}")
            settings["BACKUPD_BACKUPS_DIR"] = BACKUPS
        return (*mounts, *options), {**settings, **environ}

    def _name(self, kind: str) -> str:
        self._count += 1
        return f"{self._prefix}-{kind}-{self._count}"


def _env(environ: Mapping[str, str] | None) -> list[str]:
    return [f"--env={name}={value}" for name, value in (environ or {}).items()]


def docker_program() -> str | None:
    """Return the path of the docker command."""
    debian = "/usr/bin/docker"  # another one in PATH may want a plugin to build with
    return debian if os.access(debian, os.X_OK) else shutil.which("docker")
