"""A digest of all that decides whether a run succeeds: what failed under another one is tried again at once.

Beside the configuration that runs work with, it covers what an operator mends elsewhere: the pinned keys in a
`known_hosts` file, the database files (mounted, restored, given to another owner), the user, and the version.
"""

import json
import os
from hashlib import blake2b
from pathlib import Path
from typing import Final

from backupd import __version__
from backupd.config.render import secrets_in
from backupd.config.schema import Config

_WORKED_WITH: Final = {
    "sources",
    "backups_dir",
    "retention",
    "space",
    "shrink_guard",
    "lock",
    "pack",
    "replicas",
    "drill",
}
# Enough to notice a change, and too little to confirm a guess at a secret: one guess of 65,536 fits by chance.
_DIGEST_BYTES: Final = 2


def config_digest(config: Config) -> str:
    """Return the digest, four hex digits, keyed by the directory of the backups; no secret can be told from it."""
    facts = {
        "config": config.model_dump(include=_WORKED_WITH),
        "secrets": list(secrets_in(config.replicas)),
        "known_hosts": [_read(replica.known_hosts) for replica in config.replicas.values() if replica.known_hosts],
        "databases": [_file(Path(source.path)) for source in config.sources.values()],
        "user": (os.geteuid(), os.getegid()),
        "version": __version__,
    }
    text = json.dumps(facts, sort_keys=True, default=str).encode()
    key = blake2b(os.fsencode(config.backups_dir)).digest()
    return blake2b(text, digest_size=_DIGEST_BYTES, key=key).hexdigest()


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        return str(error)


def _file(path: Path) -> tuple[int, ...]:
    """Return which file it is and whose, empty where there is none that we may look at."""
    try:
        state = path.stat()
    except OSError:
        return ()
    return (state.st_dev, state.st_ino, state.st_uid, state.st_gid, state.st_mode, int(state.st_size > 0))
