-- How the monitor of each task fares; `source` is that of the run, empty for the daily ping.
CREATE TABLE ping (
    task TEXT NOT NULL,
    source TEXT NOT NULL,
    taken INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    taken_at TEXT,
    failed_at TEXT,
    reason TEXT NOT NULL,
    PRIMARY KEY (task, source)
) STRICT;
