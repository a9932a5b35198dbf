"""The restore drill: a rehearsal of a restore from a store, with proof."""
