"""Texts that stand for a file in other programs, and are no path here: URLs of databases, `~`, paths of Windows."""

import os
import re
from pathlib import Path
from typing import Final
from urllib.parse import unquote

# SQLAlchemy and Django (sqlite:///x, sqlite+aiosqlite://), Rails (sqlite3:x), JDBC (jdbc:sqlite:x), Prisma (file:./x),
# SQLite's own file:/x?mode=ro; .NET (Data Source=x;…).
_SCHEMES: Final = r"(?:jdbc:)?sqlite3?(?:\+\w+)?:|file:"
_KEYWORDS: Final = r"(?:data ?source|filename)\s*="
_ELSEWHERE: Final = re.compile(rf"(?:{_SCHEMES}|{_KEYWORDS})(?P<rest>.*)", re.IGNORECASE | re.DOTALL)
_URL: Final = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*://).*", re.IGNORECASE | re.DOTALL)
_WINDOWS: Final = re.compile(r"[A-Za-z]:[\\/].*|\\\\.*", re.DOTALL)


def absolute(text: str, directory: Path) -> str:
    """Return `text` as an absolute path, from `directory` on; what is no path stays as it is, to be refused."""
    return text if why_no_path(text) else os.path.abspath(directory / text)  # noqa: PTH100 - resolve() follows links


def why_no_path(text: str) -> str:
    """Say why `text` is no path and what to write instead, empty where it may be one."""
    if text != text.strip():
        return "must not begin or end with blanks or a line end"
    if found := _ELSEWHERE.fullmatch(text):
        return f"must be a path alone: write {_path_in(found['rest'])}"
    if found := _URL.fullmatch(text):
        return f"must be a path: a URL with {found['scheme']} names no SQLite file or directory of this machine"
    if _WINDOWS.fullmatch(text):
        return "is a path of Windows: write the path that the file has here, such as /app/data/tasks.db"
    if text.startswith(("~", "$")) or "${" in text:
        return "begins with '~' or holds a variable, which only a shell replaces: write the whole path"
    return ""


def _path_in(rest: str) -> str:
    """Return the path that the rest of a URL or of a connection string most likely means."""
    without_host = re.sub(r"^//(?:localhost(?=/))?", "", rest)
    path = unquote(re.split("[?;]", without_host)[0]).strip()
    if path.startswith("/") and path.strip("/"):
        return f"/{path.lstrip('/')}"
    return f"the whole path of {Path(path).name or 'the file'}, such as /app/data/tasks.db"
