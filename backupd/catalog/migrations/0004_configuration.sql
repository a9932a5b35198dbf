-- Under which configuration a run began, as a short keyed digest: failures under another one say nothing of this one.
ALTER TABLE run ADD COLUMN configuration TEXT;
