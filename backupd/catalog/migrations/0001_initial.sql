-- 0x626b7570 is "bkup": it distinguishes a catalog from databases of other programs.
PRAGMA application_id = 1651209584;

CREATE TABLE run (
    id INTEGER NOT NULL,
    task TEXT NOT NULL,
    source TEXT NOT NULL,
    started_at TEXT NOT NULL,
    finished_at TEXT,
    outcome TEXT,
    generation TEXT,
    error TEXT,
    exit_code INTEGER,
    duration_s REAL,
    report TEXT,
    PRIMARY KEY (id)
) STRICT;

CREATE INDEX run_by_task ON run (task, source, started_at);
CREATE INDEX run_by_source ON run (source, started_at);
CREATE INDEX run_by_start ON run (started_at);
CREATE INDEX run_by_generation ON run (generation);

CREATE TABLE generation (
    id TEXT NOT NULL,
    source TEXT NOT NULL,
    taken_at TEXT NOT NULL,
    snapshot_bytes INTEGER NOT NULL,
    archive_bytes INTEGER NOT NULL,
    snapshot_sha256 TEXT NOT NULL,
    archive_sha256 TEXT NOT NULL,
    verification TEXT NOT NULL,
    PRIMARY KEY (id)
) STRICT;

CREATE TABLE copy (
    generation TEXT NOT NULL,
    store TEXT NOT NULL,
    state TEXT NOT NULL,
    since TEXT NOT NULL,
    PRIMARY KEY (generation, store),
    CONSTRAINT copy_state CHECK (state IN ('present', 'damaged', 'missing'))
) STRICT;

CREATE INDEX copy_by_state ON copy (store, state);

CREATE TABLE check_result (
    id INTEGER NOT NULL,
    generation TEXT NOT NULL,
    store TEXT NOT NULL,
    checked_at TEXT NOT NULL,
    sound INTEGER NOT NULL,
    detail TEXT NOT NULL,
    duration_s REAL NOT NULL,
    PRIMARY KEY (id),
    FOREIGN KEY (generation, store) REFERENCES copy (generation, store) ON DELETE CASCADE,
    CONSTRAINT check_result_sound CHECK (sound IN (0, 1))
) STRICT;

CREATE INDEX check_result_by_generation ON check_result (generation, store, checked_at);
