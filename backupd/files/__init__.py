"""Sets of files: how a directory differs from what was read of it before, with each new content held open."""
