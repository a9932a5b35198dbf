"""All that ever opens a database file that is not ours.

The process that imports this package opens no database: each job runs in a child process of its own
(`sqlite.worker`), which holds one SQLite library, apsw's, and nothing else. Why: closing *any* descriptor of a
database drops all POSIX locks that the process holds on it (sqlite.org/howtocorrupt.html §2.2).
"""
