-- Keyed digest of the configuration of a run: failures under another configuration do not delay the next run.
ALTER TABLE run ADD COLUMN configuration TEXT;
