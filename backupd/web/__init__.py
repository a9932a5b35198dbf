"""HTTP of the daemon: begin with `web.routes`, which lists what is served, and `web.server`, which serves it."""
