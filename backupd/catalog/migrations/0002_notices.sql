-- What each daemon has notified, and the messages it has yet to send; `scope` is the first source that it serves.
CREATE TABLE notice (
    scope TEXT NOT NULL,
    "key" TEXT NOT NULL,
    value TEXT NOT NULL,
    since TEXT NOT NULL,
    notified_at TEXT,
    PRIMARY KEY (scope, "key")
) STRICT;

CREATE TABLE outbox (
    scope TEXT NOT NULL,
    reference TEXT NOT NULL,
    made_at TEXT NOT NULL,
    severity TEXT NOT NULL,
    title TEXT NOT NULL,
    body TEXT NOT NULL,
    channels TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    next_at TEXT NOT NULL,
    PRIMARY KEY (scope, reference)
) STRICT;
