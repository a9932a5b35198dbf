-- Pings by task and source; `source` is empty for the daily ping.
CREATE TABLE ping (
    task TEXT NOT NULL,
    source TEXT NOT NULL,
    accepted INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    accepted_at TEXT,
    failed_at TEXT,
    reason TEXT NOT NULL,
    PRIMARY KEY (task, source)
) STRICT;
