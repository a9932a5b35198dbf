"""Find out what kind of file a source is, before SQLite opens it."""

import os

import apsw

from backupd.errors import SourceCorrupt, SourceForeign, SourceUnreadable
from backupd.sqlite.checksums import has_checksums
from backupd.sqlite.encryption import encrypted_header
from backupd.sqlite.header import NEWEST_READ_VERSION, SIZE, Header, parse_header


def read_any_header(path: str) -> Header:
    """Return the header of a plain or an encrypted database; refuse all other files.

    Raises OSError, SourceForeign, SourceCorrupt, SourceUnreadable.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        header = encrypted_header(descriptor) or parse_header(os.pread(descriptor, SIZE, 0))
        if header is not None and not header.encrypted:
            header = header._replace(checksums=has_checksums(descriptor))
    finally:
        os.close(descriptor)
    if header is None:
        raise SourceUnreadable(
            f"{path} is not a SQLite database, and does not look like an encrypted one",
            "check the path; if it was a database before, its beginning is damaged",
        )
    if not header.sane:
        raise SourceCorrupt(
            f"{path} is damaged: its header holds what no SQLite writes",
            "restore the last good generation (backupd list), or try sqlite3 .recover",
        )
    if header.read_version > NEWEST_READ_VERSION:
        raise SourceForeign(
            f"{path} is not readable by SQLite {apsw.sqlite_lib_version()}: version {header.read_version} of the file "
            "format was made by another engine, or by a branch of SQLite",
            "let its engine write it in a journal mode of SQLite (WAL or DELETE), or back it up with its own tools",
        )
    return header
