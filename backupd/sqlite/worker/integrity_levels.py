"""Checks of decreasing strength: damage is distinguished from what this SQLite cannot check.

First `integrity_check`; if that cannot run, the same without virtual table modules; if that cannot run either,
`quick_check` with stand-ins for the functions and collations of the app, of which only messages about b-trees count. If
the schema cannot be parsed, all pages are followed, and each object of the schema is checked alone.
"""

import re
from collections.abc import Callable
from contextlib import closing
from typing import Literal

import apsw

from backupd.sqlite.worker.connection import ignore_unparsable_schema
from backupd.sqlite.worker.foreign_schema import follow_pages, schema_error_in, schema_errors
from backupd.sqlite.worker.protocol import Thoroughness
from backupd.system.worker import out_of_memory

MAX_MESSAGES = 100
_MAX_LENGTH = 1000
_NO_LIMIT = 2**31 - 1
# Compiled when a check reports something, which is rare: compiling takes longer than the check of a small copy.
_MISSING_FUNCTION = r"(?:no such|unknown) function: (\S+?)(?:\(\))?$"
_INDEX = (
    r"(?s:row \S+ missing from index (?P<a>.+)"
    r"|row \S+ values differ from index (?P<b>.+)"
    r"|index (?P<c>.+) stores an imprecise floating-point value for row \S+"
    r"|wrong # of entries in index (?P<d>.+)"
    r"|non-unique entry in index (?P<e>.+))"
)
_HARMLESS = (
    r"^(NULL|NUMERIC|TEXT|BLOB|INTEGER|REAL|non-\w+) value in "
    r"|^CHECK constraint failed in "
    r"|^(malformed|unable to validate the) inverted index for FTS"
)
_UNUSED_PAGE = r"^Page \d+: never used$"


class IntegrityResult:
    """The findings; `prepare` gives a new connection the stand-ins with which the checks could read the copy.

    `doubt` says why a copy without findings may still be damaged; `rows` has the rows of each b-tree if the schema
    cannot be parsed.
    """

    def __init__(self, path: str, writer: str) -> None:
        self.path, self.writer = path, writer
        self.level: Literal["full", "structural", "corrupt"] = "full"
        self.checks: list[str] = []
        self.damage: list[str] = []
        self.notes: list[str] = []
        self.doubt = ""
        self.rows: dict[str, int] = {}
        self.prepare: Callable[[apsw.Connection], apsw.Connection] = lambda connection: connection


def check_integrity(
    connect: Callable[[str], apsw.Connection], path: str, writer: str, thorough: Thoroughness = "all"
) -> IntegrityResult:
    """Check the database at `path` that `connect` opens and that SQLite `writer` wrote.

    Damage is a result, not an error. Raises WorkerFailed where there is too little memory for any check.
    """
    result = IntegrityResult(path, writer)
    reason = ""
    for check in _CHECKS[thorough]:
        connection = connect(path)
        try:
            check(connection, result)
        except (apsw.NoMemError, MemoryError) as error:
            if thorough == "pages":
                raise out_of_memory() from error
            weaker = check_integrity(connect, path, writer, "structure" if thorough == "all" else "pages")
            weaker.notes.insert(0, f"{result.checks[-1]} takes more memory than it may have")
            return weaker
        except (apsw.SQLError, apsw.TooBigError, apsw.CorruptError, apsw.NotADBError) as error:
            reason = str(error)
            if isinstance(error, apsw.SQLError | apsw.TooBigError) or _is_foreign_schema(connect(path), writer, reason):
                _append(result.notes, f"{result.checks[-1]} cannot run here: {reason}")
                continue
            _append(result.damage, reason)
        finally:
            connection.close()
        break
    else:
        _append(result.damage, f"no check can run: {reason}")  # what cannot be verified counts as damaged
    if result.damage:
        result.level = "corrupt"
    return result


def _integrity(connection: apsw.Connection, result: IntegrityResult) -> None:
    result.checks.append("integrity_check")
    _collect(connection, result, structure_only=False)


def _integrity_without_modules(connection: apsw.Connection, result: IntegrityResult) -> None:
    result.checks.append("integrity_check without virtual tables")
    connection.drop_modules([])
    _collect(connection, result, structure_only=False)


def _structure_with_stand_ins(connection: apsw.Connection, result: IntegrityResult) -> None:
    result.checks.append("quick_check with stand-ins")
    result.level = "structural"
    result.prepare = _with_collations
    _structure(_with_collations(connection), result)


def _structure_without_functions(connection: apsw.Connection, result: IntegrityResult) -> None:
    result.checks.append("quick_check without functions")
    result.level = "structural"
    result.prepare = _without_modules
    _replace_functions(_without_modules(connection), _all_functions(connection))
    _collect(connection, result, structure_only=True)


def _pages(connection: apsw.Connection, result: IntegrityResult) -> None:
    result.checks.append("all pages followed")
    result.level = "structural"
    result.prepare = _without_modules
    _follow(_without_modules(connection), result)


def _structure_of_foreign_schema(connection: apsw.Connection, result: IntegrityResult) -> None:
    """Check the tables whose SQL this library can parse, and follow the pages of all."""
    result.checks += ["quick_check of what can be parsed", "all pages followed"]
    result.level = "structural"
    result.prepare = _with_foreign_schema
    try:
        _structure(_with_foreign_schema(connection), result)
    except apsw.TooBigError as error:  # values that are longer than this library allows
        _append(result.notes, f"quick_check cannot run here: {error}")
    # Pages of tables that were skipped look unused; `follow_pages` finds the ones that are.
    result.damage[:] = [message for message in result.damage if not re.match(_UNUSED_PAGE, message)]
    _follow(connection, result)
    explanations: list[str] = []
    for found in schema_errors(connection, result.writer):
        _append(result.damage if found.cause == "damage" else explanations, str(found))
        if found.cause == "other engine":
            result.doubt = result.doubt or str(found)[:_MAX_LENGTH]
    result.notes[:] = [*explanations, *result.notes][:MAX_MESSAGES]  # first those that explain the others


def _follow(connection: apsw.Connection, result: IntegrityResult) -> None:
    pages = follow_pages(connection, result.path)
    for message in pages.damage:
        _append(result.damage, message)
    result.rows = pages.rows


def _structure(connection: apsw.Connection, result: IntegrityResult) -> None:
    """Check the b-trees; a function that only the app has, or that fails on stored values, gets a stand-in."""
    connection.drop_modules(["dbstat"])  # needed by `follow_pages`
    replaced: set[str] = set()
    while True:
        try:
            return _collect(connection, result, structure_only=True)
        except apsw.SQLError as error:
            wanted = _functions_behind(error, connection) - replaced
            if not wanted:
                raise
            _replace_functions(connection, wanted)
            replaced |= wanted


def _functions_behind(error: apsw.SQLError, connection: apsw.Connection) -> set[str]:
    missing = re.search(_MISSING_FUNCTION, str(error))
    return {missing[1]} if missing else _all_functions(connection)


def _all_functions(connection: apsw.Connection) -> set[str]:
    return {str(name) for (name,) in connection.execute("SELECT name FROM pragma_function_list WHERE type = 's'")}


def _replace_functions(connection: apsw.Connection, names: set[str]) -> None:
    for name in names:
        connection.create_scalar_function(name, lambda *_values: None, deterministic=True, flags=apsw.SQLITE_INNOCUOUS)


def _without_modules(connection: apsw.Connection) -> apsw.Connection:
    connection.drop_modules(["dbstat"])  # needed by `follow_pages`
    return _with_collations(ignore_unparsable_schema(connection))


def _with_collations(connection: apsw.Connection) -> apsw.Connection:
    connection.collation_needed(lambda wanting, name: wanting.create_collation(name, lambda a, b: (a > b) - (a < b)))
    return connection


def _with_foreign_schema(connection: apsw.Connection) -> apsw.Connection:
    return _with_collations(ignore_unparsable_schema(connection))


def _is_foreign_schema(connection: apsw.Connection, writer: str, reason: str) -> bool:
    """Return whether another SQLite or another engine wrote the schema; else it is damaged."""
    with closing(_with_foreign_schema(connection)):
        error = schema_error_in(connection, reason, writer)
    return error is not None and error.cause != "damage"


def _collect(connection: apsw.Connection, result: IntegrityResult, *, structure_only: bool) -> None:
    check = "quick_check" if structure_only else "integrity_check"
    for (text,) in connection.execute(f"PRAGMA {check}({_NO_LIMIT})"):
        # findings in b-trees come in one text, a line each; in other texts, a newline may be part of a name
        for message in text.split("\n")[1:] if text.startswith("***") else [text]:
            if message in {"", "ok"}:
                continue
            if not _is_harmless(connection, message, structure_only=structure_only):
                _append(result.damage, message)
            elif not structure_only:  # else it may be about a value of a stand-in
                _append(result.notes, message)
        if len(result.damage) >= MAX_MESSAGES:
            return


def _is_harmless(connection: apsw.Connection, message: str, *, structure_only: bool) -> bool:
    """Return whether a message of the check does not mean damage to the app's data.

    Constraints depend on the app, full text indexes are derived data, and an index on an expression or a
    generated column may differ between SQLite versions (https://sqlite.org/staleexpridx.html).
    """
    if re.search(_HARMLESS, message):
        return True
    index = re.fullmatch(_INDEX, message)
    if index is None:
        return False
    return structure_only or _is_derived(connection, index[index.lastgroup or 0])


def _is_derived(connection: apsw.Connection, index: str) -> bool:
    return bool(
        connection.execute(
            "SELECT EXISTS (SELECT 1 FROM sqlite_schema AS s, pragma_index_xinfo(s.name) AS i "
            "LEFT JOIN pragma_table_xinfo(s.tbl_name) AS c ON c.cid = i.cid "
            "WHERE s.type = 'index' AND s.name = ? AND i.key AND (i.cid = -2 OR c.hidden IN (2, 3)))",
            (index,),
        ).get
    )


_CHECKS: dict[Thoroughness, tuple[Callable[[apsw.Connection, IntegrityResult], None], ...]] = {
    "all": (_integrity, _integrity_without_modules, _structure_with_stand_ins, _structure_of_foreign_schema),
    "structure": (_structure_without_functions, _pages),
    "pages": (_pages,),
}


def _append(messages: list[str], message: str) -> None:
    message = message[:_MAX_LENGTH]
    if len(messages) < MAX_MESSAGES and message not in messages:
        messages.append(message)
