"""Environment variables that Kubernetes and Docker set in a container to describe other containers.

A Kubernetes Service called `backupd` or `backupd-…` sets BACKUPD_PORT and others in every pod of its namespace
(https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables); `docker run --link X:backupd`
sets them in one container (https://docs.docker.com/engine/network/links/). Name and value must both match, so that
BACKUPD_PORT=8080, which an operator writes, stays an error.
"""

import re
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from typing import Final

_OWNER: Final = r"(?P<owner>BACKUPD(?:_[A-Z0-9_]+?)?)"
_SERVICE_HOST: Final = re.compile(rf"{_OWNER}_SERVICE_HOST", re.ASCII)
_SERVICE_PORT: Final = re.compile(rf"{_OWNER}_SERVICE_PORT(?:_[A-Z0-9_]+)?", re.ASCII)
_PORT: Final = re.compile(rf"{_OWNER}_PORT", re.ASCII)
_PORT_PART: Final = re.compile(
    rf"(?P<whole>{_OWNER}_PORT_(?P<number>\d{{1,5}})_(?P<protocol>TCP|UDP|SCTP))(?:_(?P<part>(?:PORT_)?START|"
    r"(?:PORT_)?END|PROTO|PORT|ADDR))?",
    re.ASCII,
)
_LINK_NAME: Final = re.compile(rf"{_OWNER}_NAME", re.ASCII)
_LINK_ENV: Final = re.compile(rf"{_OWNER}_ENV_.+", re.ASCII)
_ADDRESS: Final = re.compile(r"(?:tcp|udp|sctp)://(?P<host>[0-9.]+|\[[0-9A-Fa-f:.]+\]|[0-9A-Fa-f:]+):\d{1,5}", re.ASCII)
_ALIAS: Final = re.compile(r"/[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+", re.ASCII)


def is_service_link(name: str, environ: Mapping[str, str]) -> bool:
    """Return whether the variable `name` has both the name and the value of a link to another container."""
    value = environ[name].strip()
    if found := _PORT_PART.fullmatch(name):
        return _is_port_part(found, value, environ)
    if _SERVICE_HOST.fullmatch(name):
        return _is_host(value)
    if found := _SERVICE_PORT.fullmatch(name):
        return _is_port(value) and _is_host(environ.get(f"{found['owner']}_SERVICE_HOST", "").strip())
    if _PORT.fullmatch(name):
        return _is_address(value)
    if _LINK_NAME.fullmatch(name):
        return _ALIAS.fullmatch(value) is not None
    found = _LINK_ENV.fullmatch(name)  # any value: it is a variable of the other container
    return found is not None and _ALIAS.fullmatch(environ.get(f"{found['owner']}_NAME", "").strip()) is not None


def service_links_note(names: Sequence[str]) -> str:
    """Return one line: the variables `names` were ignored, and how to remove them; empty for no names."""
    if not names:
        return ""
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return (
        f"ignored {names[0]}{more}: set by Kubernetes or Docker for a service called backupd, not by you "
        "(enableServiceLinks: false in the pod spec removes them)"
    )


def _is_port_part(found: re.Match[str], value: str, environ: Mapping[str, str]) -> bool:
    part = found["part"]
    if part is None or part in ("START", "END"):
        return _is_address(value)
    if not _is_address(environ.get(found["whole"], environ.get(f"{found['whole']}_START", "")).strip()):
        return False
    if part == "PROTO":
        return value == found["protocol"].lower()
    return _is_host(value) if part == "ADDR" else _is_port(value)


def _is_address(value: str) -> bool:
    found = _ADDRESS.fullmatch(value)
    return found is not None and _is_host(found["host"].strip("[]"))


def _is_host(value: str) -> bool:
    try:
        ip_address(value)
    except ValueError:
        return False
    return True


def _is_port(value: str) -> bool:
    return re.fullmatch(r"\d{1,5}", value, re.ASCII) is not None
