"""Which file system a database is on, from what /proc/self/mountinfo says."""

import pytest

from backupd.sqlite.mounts import filesystem_of, is_remote

MOUNTINFO = r"""22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 22 0:40 / /mnt rw - nfs4 nas:/export rw
31 30 0:41 / /mnt/local rw - ext4 /dev/vdb rw
32 22 0:42 / /srv/with\040space rw master:1 - cifs //nas/share rw
33 22 0:43 / /data rw - ext4 /dev/vdc rw
34 33 0:44 / /data rw - fuse.bindfs bindfs rw
35 22 0:45 / /vm rw - virtiofs share rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/tasks.db", "ext4"),
        ("/mnt/tasks.db", "nfs4"),
        ("/mnt/local/tasks.db", "ext4"),
        ("/mntx/tasks.db", "ext4"),
        ("/srv/with space/tasks.db", "cifs"),
        ("/data/tasks.db", "fuse.bindfs"),
        ("/vm/a/b.db", "virtiofs"),
    ],
)
def test_the_last_mount_on_the_longest_point_is_the_one(path: str, kind: str) -> None:
    assert filesystem_of(path, MOUNTINFO) == kind


@pytest.mark.parametrize(
    "kind", ["nfs", "nfs4", "cifs", "smb3", "9p", "virtiofs", "fuse", "fuse.sshfs", "fuseblk", "ceph"]
)
def test_other_kernels_may_write_there(kind: str) -> None:
    assert is_remote(kind)


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "overlay", "tmpfs", "zfs", "fusectl", "unknown"])
def test_only_this_kernel_writes_there(kind: str) -> None:
    assert not is_remote(kind)
