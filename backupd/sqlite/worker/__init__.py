"""Child processes: the only modules that import apsw, and never together with another SQLite."""
