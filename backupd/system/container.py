"""The container of this process, and the prefix of a command that runs in it from the host."""

import os
import re
import socket
from collections.abc import Iterable, Mapping
from shlex import quote
from typing import Final

from backupd.system.mounts import Mount, current_mounts

# Engines mount the files of a container from a directory that has its id (Docker, Podman), or its name (Kubernetes).
_DOCKER: Final = re.compile(r"/containers/([0-9a-f]{64})/(?:hostname|resolv\.conf|hosts)$")
_PODMAN: Final = re.compile(r"/overlay-containers/([0-9a-f]{64})/userdata/")
_KUBERNETES: Final = re.compile(r"/pods/[^/]+/containers/([a-z0-9.-]+)/[^/]+$")
_ID: Final = re.compile("[0-9a-f]{12}")
_SHOWN_ID: Final = 12


def host_name() -> str:
    """Return the name of this host; empty in a container without a name of its own, whose host name is its ID."""
    name = socket.gethostname()
    return "" if _ID.fullmatch(name) else name


def exec_prefix(environ: Mapping[str, str] = os.environ, mounts: Iterable[Mount] | None = None) -> str:
    """Return the prefix that runs a command in this container: `docker exec 0a1b2c3d4e5f `.

    Empty outside of containers, and where the id of this one is not known.
    """
    roots = [mount.root for mount in (current_mounts() if mounts is None else mounts)]
    if "KUBERNETES_SERVICE_HOST" in environ and (name := _first(_KUBERNETES, roots)):
        return f"kubectl exec {quote(socket.gethostname())} -c {name} -- "
    if found := _first(_PODMAN, roots):
        return f"podman exec {found[:_SHOWN_ID]} "
    if found := _first(_DOCKER, roots):
        return f"docker exec {found[:_SHOWN_ID]} "
    return ""


def _first(pattern: re.Pattern[str], roots: Iterable[str]) -> str:
    return next((found[1] for root in roots if (found := pattern.search(root))), "")
