"""Real git: a bare repository on a server, with a hook, and a clone that pushes to it through receive-pack."""

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from support.command import CommandResult


@dataclass(frozen=True)
class Repositories:
    """The server's bare repository and a clone of it. Pushes use the protocol, so that git keeps them in quarantine."""

    bare: Path
    clone: Path
    environ: Mapping[str, str]

    def git(self, *arguments: str, cwd: Path | None = None) -> str:
        """Run git in the clone, or in `cwd`; return what it printed. Raises AssertionError when it fails."""
        done = self._run(arguments, cwd or self.clone)
        assert done.code == 0, done.err
        return done.out.strip()

    def commit(self, files: Mapping[str, str | bytes], message: str = "a change") -> str:
        """Commit these files and no others; return the commit."""
        self.git("rm", "-rfq", "--ignore-unmatch", ".")
        for name, content in files.items():
            path = self.clone / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        self.git("add", "--all")
        self.git("commit", "-q", "--allow-empty", "-m", message)
        return self.git("rev-parse", "HEAD")

    def push(self, *refspecs: str, **environ: str) -> CommandResult:
        """Push; what the hook wrote is in `err`."""
        return self._run(("push", "origin", *refspecs), self.clone, environ)

    def refs(self) -> dict[str, str]:
        """Return the refs of the server, and what each names."""
        lines = self.git("for-each-ref", "--format=%(refname) %(objectname)", cwd=self.bare).splitlines()
        return dict(line.split() for line in lines)

    def start_push(self, *refspecs: str) -> subprocess.Popen[str]:
        """Start to push, in a session of its own."""
        command = ["git", "push", "origin", *refspecs]
        return subprocess.Popen(
            command, cwd=self.clone, env=self.environ, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    def _run(self, arguments: tuple[str, ...], cwd: Path, environ: Mapping[str, str] | None = None) -> CommandResult:
        env = {**self.environ, **(environ or {})}
        done = subprocess.run(
            ["git", *arguments],
            cwd=cwd,
            env=env,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=60,
            check=False,
        )
        return CommandResult(done.returncode, done.stdout, done.stderr)


def make_repositories(directory: Path, object_format: str = "sha1") -> Repositories:
    """Create a bare repository and a clone that is empty too."""
    names = {f"GIT_{role}_{what}": "tester" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    home = directory / "home"
    home.mkdir()
    environ = {"PATH": os.environ["PATH"], "HOME": str(home), "GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C.UTF-8", **names}
    repositories = Repositories(directory / "app.git", directory / "clone", environ)
    options = ("-q", "-b", "main", f"--object-format={object_format}")
    repositories.git("init", *options, "--bare", str(repositories.bare), cwd=directory)
    repositories.git("init", *options, str(repositories.clone), cwd=directory)
    repositories.git("remote", "add", "origin", f"file://{repositories.bare}")
    return repositories
