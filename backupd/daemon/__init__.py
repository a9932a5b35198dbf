"""The daemon: runs tasks by schedule, answers over HTTP, and notifies."""
