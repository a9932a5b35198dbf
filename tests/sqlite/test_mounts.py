"""Which file system a database is on, from what /proc/self/mountinfo says."""

from pathlib import Path

import pytest

from backupd.sqlite.mounts import filesystem_of, is_remote

MOUNTINFO = r"""22 1 254:0 / / rw,relatime - overlay overlay rw,lowerdir=/a:/b
23 22 0:20 / /proc rw,nosuid - proc proc rw
24 22 254:0 /home /home rw,relatime shared:1 master:2 propagate_from:3 unbindable - ext4 /dev/vda rw
30 22 0:40 / /mnt rw - nfs4 nas:/export rw
31 30 0:41 / /mnt/local rw - ext4 /dev/vdb rw
36 31 0:46 / /mnt/local/deep/share rw - 9p host rw
32 22 0:42 / /srv/with\040space rw master:1 - cifs //nas/share rw
37 22 0:47 / /srv/tab\011here rw - nfs nas:/tab rw
38 22 0:48 / /srv/back\134slash rw - smb3 //nas/slash rw
39 22 0:49 / /srv/hash\043mark rw - ceph mon:/ rw
40 22 0:50 / /srv/two\012lines rw - fuse.sshfs nas: rw
41 22 0:51 / /srv/next line rw - nfs nas:/odd rw
33 22 0:43 / /data rw - ext4 /dev/vdc rw
34 33 0:44 / /data rw - fuse.bindfs bindfs rw
35 22 0:45 / /vm rw - virtiofs share rw
42 22 0:52 / /again rw - nfs nas:/again rw
43 42 0:53 / /again rw - xfs /dev/vdd rw
""".replace("next line", "next\x85line")


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/tasks.db", "overlay"),
        ("/home/tasks.db", "ext4"),
        ("/homework/tasks.db", "overlay"),
        ("/mnt/tasks.db", "nfs4"),
        ("/mnt", "nfs4"),
        ("/mntx/tasks.db", "overlay"),
        ("/mnt/local/tasks.db", "ext4"),
        ("/mnt/local/deep/tasks.db", "ext4"),
        ("/mnt/local/deep/share/tasks.db", "9p"),
        ("/srv/with space/tasks.db", "cifs"),
        ("/srv/with", "overlay"),
        ("/srv/tab\there/tasks.db", "nfs"),
        ("/srv/back\\slash/tasks.db", "smb3"),
        ("/srv/hash#mark/tasks.db", "ceph"),
        ("/srv/two\nlines/tasks.db", "fuse.sshfs"),
        ("/srv/next\x85line/tasks.db", "nfs"),
        ("/data/tasks.db", "fuse.bindfs"),
        ("/vm/a/b.db", "virtiofs"),
        ("/again/tasks.db", "xfs"),
    ],
)
def test_the_last_mount_on_the_longest_point_is_the_one(path: str, kind: str) -> None:
    assert filesystem_of(path, MOUNTINFO) == kind


def test_where_no_mount_is_known_the_kind_is_not_known() -> None:
    assert filesystem_of("/data/tasks.db", "") == "unknown"


def test_the_mounts_of_this_process_are_asked_where_none_are_given(tmp_path: Path) -> None:
    assert filesystem_of("/proc/version") == "proc"
    assert filesystem_of(str(tmp_path / "tasks.db")) != "unknown"


@pytest.mark.parametrize(
    "kind",
    [
        *("nfs", "nfs3", "nfs4", "cifs", "smb", "smb2", "smb3", "smbfs", "9p", "virtiofs", "ceph", "afs", "lustre"),
        *("fuse", "fuse.sshfs", "fuse.rclone", "fuse.bindfs", "fuseblk", "vboxsf", "prl_fs"),
    ],
)
def test_other_kernels_may_write_there(kind: str) -> None:
    assert is_remote(kind)


@pytest.mark.parametrize(
    "kind", ["ext4", "xfs", "btrfs", "overlay", "tmpfs", "zfs", "f2fs", "fusectl", "nfsd", "cephx", "9pfs", "unknown"]
)
def test_only_this_kernel_writes_there(kind: str) -> None:
    assert not is_remote(kind)
