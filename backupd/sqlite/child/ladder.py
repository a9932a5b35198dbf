"""The ladder of checks: damage told apart from what this SQLite merely cannot judge.

`integrity_check`; when that cannot run, again without virtual table modules; when that cannot run either, stand-ins
for the app's functions and collations and `quick_check`, of which only what concerns the b-trees counts.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import apsw

MAX_MESSAGES = 100
_NO_LIMIT = 2**31 - 1
_MISSING_FUNCTION = re.compile(r"(?:no such|unknown) function: (\S+?)(?:\(\))?$")
_INDEX = re.compile(
    r"^row \S+ missing from index (?P<a>.+)$"
    r"|^row \S+ of index (?P<b>.+?) is .*$"
    r"|^row values differ .*index (?P<c>.+)$"
    r"|^index (?P<d>.+) stores an imprecise floating-point value for row \S+$"
    r"|^wrong # of entries in index (?P<e>.+)$"
    r"|^non-unique entry in index (?P<f>.+)$"
)
_HARMLESS = re.compile(
    r"^(NULL|NUMERIC|TEXT|BLOB|INTEGER|REAL|non-\w+) value in "
    r"|^CHECK constraint failed in "
    r"|(malformed|validate the) inverted index for FTS"
)
_UNUSED_PAGE = re.compile(r"^Page \d+: never used$")
_STAND_INS = 1000


@dataclass(slots=True)
class Ladder:
    """What was found on the way; `prepare` makes a new connection as able to read the copy as the checks were."""

    level: Literal["full", "structural", "corrupt"] = "full"
    checks: list[str] = field(default_factory=list)
    damage: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    prepare: Callable[[apsw.Connection], apsw.Connection] = lambda connection: connection


def climb(connect: Callable[[], apsw.Connection], writer: str) -> Ladder:
    """Check the database that `connect` opens and that SQLite `writer` wrote. Damage never raises: it is the answer."""
    ladder = Ladder()
    for rung in (
        _integrity,
        _integrity_without_modules,
        _structure_with_stand_ins,
        _structure_of_newer_schema,
    ):
        connection = connect()
        try:
            rung(connection, ladder)
        except (apsw.CorruptError, apsw.NotADBError) as error:
            if _is_newer_schema(writer, error) and rung is not _structure_of_newer_schema:
                continue
            _keep(ladder.damage, str(error))
        except apsw.SQLError as error:
            _keep(ladder.notes, f"{ladder.checks[-1]} cannot run here: {error}")
            continue
        finally:
            connection.close()
        break
    else:
        ladder.level = "structural"
    if ladder.damage:
        ladder.level = "corrupt"
    return ladder


def _integrity(connection: apsw.Connection, ladder: Ladder) -> None:
    ladder.checks.append("integrity_check")
    _sort(connection, ladder, "integrity_check", derived_only=False)


def _integrity_without_modules(connection: apsw.Connection, ladder: Ladder) -> None:
    ladder.checks.append("integrity_check without virtual tables")
    connection.drop_modules([])
    _sort(connection, ladder, "integrity_check", derived_only=False)


def _structure_with_stand_ins(connection: apsw.Connection, ladder: Ladder) -> None:
    ladder.checks.append("quick_check with stand-ins")
    ladder.level = "structural"
    ladder.prepare = _with_collations
    _with_collations(connection).drop_modules([])
    for _ in range(_STAND_INS):
        try:
            _sort(connection, ladder, "quick_check", derived_only=True)
        except apsw.SQLError as error:
            missing = _MISSING_FUNCTION.search(str(error))
            if missing is None:
                raise
            connection.create_scalar_function(missing[1], lambda *_values: None, deterministic=True)
        else:
            return


def _structure_of_newer_schema(connection: apsw.Connection, ladder: Ladder) -> None:
    """Check all tables but those whose SQL this library cannot parse; their pages then look unused."""
    ladder.checks.append("quick_check of what can be parsed")
    ladder.level = "structural"
    ladder.prepare = _with_newer_schema
    _with_newer_schema(connection)
    _sort(connection, ladder, "quick_check", derived_only=True)
    ladder.damage[:] = [message for message in ladder.damage if not _UNUSED_PAGE.match(message)]


def _with_collations(connection: apsw.Connection) -> apsw.Connection:
    connection.collation_needed(lambda wanting, name: wanting.create_collation(name, lambda a, b: (a > b) - (a < b)))
    return connection


def _with_newer_schema(connection: apsw.Connection) -> apsw.Connection:
    connection.execute("PRAGMA writable_schema=ON")
    return _with_collations(connection)


def _is_newer_schema(writer: str, error: apsw.Error) -> bool:
    """Tell a schema that a newer SQLite wrote from a damaged one."""
    return _version(writer) > _version(apsw.sqlite_lib_version()) and "malformed database schema" in str(error)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text))


def _sort(connection: apsw.Connection, ladder: Ladder, check: str, *, derived_only: bool) -> None:
    for (text,) in connection.execute(f"PRAGMA {check}({_NO_LIMIT})"):
        for message in text.splitlines():
            if message == "ok" or message.startswith("***"):
                continue
            harmless = _is_harmless(connection, message, derived_only=derived_only)
            _keep(ladder.notes if harmless else ladder.damage, message)
        if len(ladder.damage) >= MAX_MESSAGES:
            return


def _is_harmless(connection: apsw.Connection, message: str, *, derived_only: bool) -> bool:
    """Tell whether a message of the check is no sign of damage to the app's data.

    Constraints are the app's affair, full text indexes are derived data, and an index on an expression or a
    generated column may differ between SQLite versions (https://sqlite.org/staleexpridx.html).
    """
    if _HARMLESS.search(message):
        return True
    index = _INDEX.match(message)
    if index is None:
        return False
    return derived_only or _is_derived(connection, index[index.lastgroup or 0])


def _is_derived(connection: apsw.Connection, index: str) -> bool:
    return bool(
        connection.execute(
            "SELECT EXISTS (SELECT 1 FROM sqlite_schema AS s, pragma_index_xinfo(s.name) AS i "
            "LEFT JOIN pragma_table_xinfo(s.tbl_name) AS c ON c.cid = i.cid "
            "WHERE s.type = 'index' AND s.name = ? AND i.key AND (i.cid = -2 OR c.hidden IN (2, 3)))",
            (index,),
        ).get
    )


def _keep(messages: list[str], message: str) -> None:
    if len(messages) < MAX_MESSAGES:
        messages.append(message[:1000])
