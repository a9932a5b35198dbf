"""The child process that walks a directory as its owner."""
