"""Directories that must differ: those of the replicas, and that of the backups itself."""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from backupd.config.sections import ReplicaSection
from backupd.errors import ConfigError
from backupd.stores.sftp.url import Address, DirectoryAddress, parse_address


def refuse_shared_targets(replicas: Mapping[str, ReplicaSection], backups_dir: Path | None) -> None:
    """Raise ValueError where two replicas are one directory, or one is the directory of the backups.

    What only the file system or another host can tell is not seen here, and a URL that means nothing is passed over:
    that is said where it is used.
    """
    named: dict[Address, str] = {}
    for name, replica in replicas.items():
        with suppress(ConfigError):
            address = _normal(parse_address(replica.url))
            other = named.setdefault(address, name)
            if other != name:
                raise ValueError(f"{other} and {name} are the same directory {replica.url}: give each one of its own")
            if backups_dir is not None and address == _normal(DirectoryAddress(backups_dir)):
                raise ValueError(f"{name} is backups_dir itself: a copy there would be none")


def _normal(address: Address) -> Address:
    return DirectoryAddress(Path(os.path.normpath(address.path))) if isinstance(address, DirectoryAddress) else address
