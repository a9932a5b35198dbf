"""The bytes of a generation: the archive and its manifest."""
