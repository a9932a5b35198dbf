"""Checks of the whole set-up: the local store, each replica, the drill."""
