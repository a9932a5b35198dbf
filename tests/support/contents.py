"""Contents of files in a store of this machine, as a backup adds them."""

import hashlib

from backupd.archive.gzip_member import pack_member
from backupd.stores.local import DirectoryStore

_MEMBER_BYTES = 1 << 20


def add_contents(store: DirectoryStore, *contents: bytes, packed: bool = True) -> list[str]:
    """Add contents; returns their digests, in hex."""
    digests = []
    with store.staging() as staging, store.contents.adding(staging) as writer:
        for data in contents:
            digest = hashlib.sha256(data)
            if not writer.holds(digest.digest()):
                with writer.part() as part:
                    for begin in range(0, len(data), _MEMBER_BYTES) if packed else ():
                        part.write(pack_member(data[begin : begin + _MEMBER_BYTES], 6))
                    if not packed:
                        part.write(data)
                    part.finish(digest.digest(), packed=packed)
            digests.append(digest.hexdigest())
    return digests
