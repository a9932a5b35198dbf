"""A restore from another host gets the contents of files many at a time, in the order in which it needs them."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import BinaryIO

import pytest

from backupd.errors import ContentMissing
from backupd.stores.sftp.contents import SftpContents
from backupd.tasks.context import TaskContext
from backupd.tasks.replica import once
from backupd.tasks.restore.contents import OpenedContents, contents_of
from backupd.tasks.restore.extract import ResumingArchives
from support.network_faults import NetworkFaults, running_proxy
from support.points import files_generation
from support.replicas import over_sftp, retrying
from support.sshd import Sshd

SMALL = 100
CUT_BYTES = 150_000
AT = datetime(2026, 11, 30, 4, tzinfo=UTC)


@pytest.fixture
def digests(context: TaskContext) -> list[str]:
    """The digests in a list of small files, some of which are alike, and of two large ones among them."""
    tree = {f"{number:03}": f"small {number % SMALL}\n".encode() * 20 for number in range(SMALL + 20)}
    tree |= {f"{number}-large": os.urandom(400_000) for number in ("020", "099")}
    files_generation(context, tree, AT)
    return [hashlib.sha256(tree[name]).hexdigest() for name in sorted(tree)]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The digests of what was opened by itself since."""
    seen, really_open = list[str](), SftpContents.open

    def open_one(contents: SftpContents, digest: str) -> BinaryIO:
        seen.append(digest)
        return really_open(contents, digest)

    monkeypatch.setattr(SftpContents, "open", open_one)
    return seen


def read(contents: OpenedContents, digests: Sequence[str]) -> list[str]:
    """Let several threads read contents, as a restore does; return the digests of what they contain."""

    def digest_of(digest: str) -> str:
        with contents.open(digest) as stream:
            return hashlib.sha256(stream.read()).hexdigest()

    with ThreadPoolExecutor(4) as pool:
        return [*pool.map(digest_of, digests)]


def test_small_contents_come_together_and_each_large_or_repeated_one_alone(
    sshd: Sshd, context: TaskContext, digests: list[str], opened: list[str]
) -> None:
    connect = over_sftp(sshd, context.store.directory, context)
    with connect() as replica, ResumingArchives(replica, connect, once) as archives:
        assert read(contents_of(archives, iter(digests), len(digests)), digests) == digests
        assert len(opened) == 20 + 2
        del opened[:]
        assert read(contents_of(archives, iter(digests[:9]), 9), digests[:9]) == digests[:9]
        assert sorted(opened) == sorted(digests[:9])


def test_content_that_the_replica_has_lost_fails_alone(sshd: Sshd, context: TaskContext, digests: list[str]) -> None:
    lost, *others = digests
    context.store.contents.remove([lost])
    connect = over_sftp(sshd, context.store.directory, context)
    with connect() as replica, ResumingArchives(replica, connect, once) as archives:
        contents = contents_of(archives, iter(digests), len(digests))
        with pytest.raises(ContentMissing, match="is not there in store there"):
            contents.open(lost)
        left = [digest for digest in others if digest != lost]
        assert read(contents, left) == left


def test_contents_come_though_the_connection_is_cut_again_and_again(
    sshd: Sshd, context: TaskContext, digests: list[str]
) -> None:
    with running_proxy(sshd.port, NetworkFaults(cut_down=CUT_BYTES, times=3)) as proxy:
        connect = over_sftp(sshd, context.store.directory, context, proxy.port)
        with connect() as replica, ResumingArchives(replica, connect, retrying(9)) as archives:
            assert read(contents_of(archives, iter(digests), len(digests)), digests) == digests
        assert proxy.disturbed == 3
