"""Everything that opens a database of an app, or a copy of one.

The process that imports this package opens no database: each task runs in a child process of its own
(`sqlite.worker`), which loads one SQLite library, apsw's. The reason: closing *any* descriptor of a
database drops all POSIX locks that the process holds on it (sqlite.org/howtocorrupt.html §2.2).
"""
