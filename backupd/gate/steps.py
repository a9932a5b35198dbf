"""What each step of a deploy does, by the modules that do it."""
