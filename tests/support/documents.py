"""The commands that the documentation shows, and which test runs them.

A comment `<!-- run by PATH OF TEST -->` or `<!-- not run: REASON -->` holds for all blocks of commands below it, up to
the next such comment.
"""

import os
import pty
import re
import select
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from support.command import CommandResult

ROOT: Final = Path(__file__).parents[2]
_PART: Final = re.compile(
    r"^ *<!-- (?:run by (?P<test>\S+)|not run: (?P<reason>.+?)) -->$"
    r"|^## (?P<section>.+)$"
    r"|^(?P<indent> *)```(?:sh|bash|shell|console)(?: .*)?\n(?P<commands>(?s:.*?))^ *```$",
    re.MULTILINE,
)
_QUESTION: Final = b"Type yes to continue:"
_SILENCE_S: Final = 120.0


@dataclass(frozen=True)
class CommandBlock:
    """A block of commands; `test` is the file that runs it, or `reason` says why none does."""

    page: str
    line: int
    section: str
    commands: str
    test: str
    reason: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def command_blocks(page: str) -> tuple[CommandBlock, ...]:
    """Return all blocks of commands on a page, from top to bottom."""
    text = (ROOT / page).read_text()
    found, section, test, reason = list[CommandBlock](), "", "", ""
    for part in _PART.finditer(text):
        if part["section"]:
            section = part["section"]
        elif part["commands"] is None:
            test, reason = part["test"] or "", part["reason"] or ""
        else:
            line = text.count("\n", 0, part.start()) + 1
            commands = re.sub(rf"^{part['indent']}", "", part["commands"], flags=re.MULTILINE)
            found.append(CommandBlock(page, line, section, commands, test, reason))
    return tuple(found)


def blocks_run_by(test: str, page: str, section: str = "") -> tuple[CommandBlock, ...]:
    """Return the blocks that the file `test` (`__file__`) runs, of a page or a section whose heading begins so."""
    own = str(Path(test).relative_to(ROOT))
    blocks = tuple(one for one in command_blocks(page) if one.test == own and one.section.startswith(section))
    assert blocks, f"{page} names no block in {section!r} that {own} runs"
    return blocks


def renamed(text: str, names: Mapping[str, str]) -> str:
    """Put the names of a test in place of those of the documentation, the longest first, in one go."""
    longest_first = sorted(names, key=len, reverse=True)
    return re.sub("|".join(map(re.escape, longest_first)), lambda found: names[found[0]], text)


def run_commands(commands: str, environ: Mapping[str, str], cwd: Path) -> CommandResult:
    """Run commands with bash, up to the first that fails; raises AssertionError for that one."""
    done = subprocess.run(
        _bash(commands), env=environ, cwd=cwd, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, f"{commands}\nexit {done.returncode}: {done.stdout}{done.stderr}"
    return CommandResult(done.returncode, done.stdout, done.stderr)


def type_commands(commands: str, environ: Mapping[str, str], cwd: Path) -> str:
    """Run commands with bash on a pseudo-terminal, and answer yes to each question; return all that appeared there.

    Raises AssertionError for the first command that fails.
    """
    ours, theirs = pty.openpty()
    with subprocess.Popen(_bash(commands), env=environ, cwd=cwd, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        said, answered = b"", 0
        try:
            while chunk := _read(ours, process):
                said += chunk
                while said.count(_QUESTION) > answered:
                    os.write(ours, b"yes\n")
                    answered += 1
        except OSError:  # EIO: nobody has the other end open any more
            pass
        finally:
            os.close(ours)
        code = process.wait(60)
    shown = said.decode().replace("\r\n", "\n")
    assert code == 0, f"{commands}\nexit {code}: {shown}"
    return shown


def _read(terminal: int, process: subprocess.Popen[bytes]) -> bytes:
    """Return what appears next; kill a process that is silent for too long, since it waits for an answer."""
    if not select.select([terminal], [], [], _SILENCE_S)[0]:
        process.kill()
        return b""
    return os.read(terminal, 65536)


def _bash(commands: str) -> list[str]:
    return ["bash", "-euo", "pipefail", "-c", commands]
