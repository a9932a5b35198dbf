"""The daemon's HTTP side; begin with `web.app`, which says what there is, and `web.server`, which serves it."""
