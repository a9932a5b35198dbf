"""backupd: verified, off-site and drilled backups of SQLite apps."""

__version__ = "0.1.0"
