"""The file system of a database and of its side files, from /proc/self/mountinfo."""

from pathlib import Path

import pytest

from backupd.sqlite.database_files import mount_problem, other_mount_points
from backupd.system.mounts import filesystem_of, is_remote, mounts_in

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
def test_filesystem_is_last_mount_on_longest_mount_point(path: str, kind: str) -> None:
    assert filesystem_of(path, mounts_in(MOUNTINFO)) == kind


def test_filesystem_without_known_mount_is_unknown() -> None:
    assert filesystem_of("/data/tasks.db", ()) == "unknown"


def test_filesystem_without_given_mounts_is_read_from_own_process(tmp_path: Path) -> None:
    assert filesystem_of("/proc/version") == "proc"
    assert filesystem_of(str(tmp_path / "tasks.db")) != "unknown"


@pytest.mark.parametrize(
    "kind",
    [
        *("nfs", "nfs3", "nfs4", "cifs", "smb", "smb2", "smb3", "smbfs", "9p", "virtiofs", "ceph", "afs", "lustre"),
        *("fuse", "fuse.sshfs", "fuse.rclone", "fuse.bindfs", "fuseblk", "vboxsf", "prl_fs", "fakeowner", "drvfs"),
        *("grpcfuse", "fuse.grpcfuse", "osxfs", "fuse.osxfs", "wslfs", "vmhgfs", "ocfs2", "gfs2"),
    ],
)
def test_network_and_shared_filesystems_are_remote(kind: str) -> None:
    assert is_remote(kind)


@pytest.mark.parametrize(
    "kind", ["ext4", "xfs", "btrfs", "overlay", "tmpfs", "zfs", "f2fs", "fusectl", "nfsd", "cephx", "9pfs", "unknown"]
)
def test_local_filesystems_are_not_remote(kind: str) -> None:
    assert not is_remote(kind)


CONTAINER = r"""600 500 0:60 / / rw - overlay overlay rw,lowerdir=/a:/b
601 600 0:61 / /proc rw - proc proc rw
610 600 254:1 /srv/app/tasks.db /app/data/tasks.db rw - ext4 /dev/vda1 rw
611 600 254:1 /srv/app/prod.db//deleted /app/data/odd\040name.db rw - ext4 /dev/vda1 rw
612 600 254:1 /srv/tasks.db /tasks.db rw - ext4 /dev/vda1 rw
613 600 254:1 /srv/side/x-wal /app/side/tasks.db-wal rw - ext4 /dev/vda1 rw
620 600 254:1 /srv/volume /volume rw - ext4 /dev/vda1 rw
621 620 254:1 /srv/volume/below /volume/below rw - ext4 /dev/vda1 rw
622 600 254:1 /srv/volume/tasks.db /elsewhere/tasks.db rw - ext4 /dev/vda1 rw
630 600 0:70 / /mac rw - fakeowner /run/host_mark/Users/me/data rw,fakeowner
631 600 0:70 /tasks.db /single/tasks.db rw - fakeowner /run/host_mark/Users/me/data rw,fakeowner
632 600 0:71 / /named rw - virtio9 /run/host_mark/Users rw
640 600 254:1 /srv/old/tasks.db /covered/tasks.db rw - ext4 /dev/vda1 rw
641 600 254:2 /new /covered rw - xfs /dev/vdb rw
650 600 254:1 /srv/stack /stack rw - ext4 /dev/vda1 rw
651 650 254:1 /srv/first.db /stack/tasks.db rw - ext4 /dev/vda1 rw
652 651 254:2 /second.db /stack/tasks.db rw - xfs /dev/vdb rw
653 600 254:1 /var/lib/docker/volumes/app-data/_data/tasks.db /sub/tasks.db rw - ext4 /dev/vda1 rw
660 600 0:80 / /lone/tasks.db rw - fuse.one one rw
"""


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("/app/data/tasks.db", "-v /srv/app:/app/data ("),
        ("/app/data/odd name.db", "-v /srv/app:/app/data, where the database is /app/data/prod.db ("),
        ("/tasks.db", "-v /srv:/data, where the database is /data/tasks.db ("),
        ("/app/side/tasks.db", "-v /srv/side:/app/side ("),
        ("/single/tasks.db", "-v /Users/me/data:/single ("),
        ("/stack/tasks.db", "-v DIRECTORY:/stack, where the database is /stack/second.db ("),
        ("/sub/tasks.db", "-v app-data:/sub ("),
        ("/lone/tasks.db", "-v DIRECTORY:/lone"),
    ],
)
def test_mounted_database_or_side_file_is_problem_with_mount_of_directory_as_hint(path: str, line: str) -> None:
    apart = mount_problem(path, mounts_in(CONTAINER))
    assert apart is not None
    assert "is mounted without its directory" in apart.message
    assert line in apart.hint


@pytest.mark.parametrize(
    "path",
    ["/volume/tasks.db", "/volume/below/tasks.db", "/mac/tasks.db", "/covered/tasks.db", "/other.db", "/app/tasks.db"],
)
def test_database_in_mounted_directory_is_no_problem(path: str) -> None:
    assert mount_problem(path, mounts_in(CONTAINER)) is None


def test_mount_covered_by_later_mount_is_ignored() -> None:
    mounts = mounts_in(CONTAINER)
    kinds = [filesystem_of(path, mounts) for path in ("/covered/tasks.db", "/stack/tasks.db", "/stack/other.db")]
    assert kinds == ["xfs", "xfs", "ext4"]


def test_share_of_docker_desktop_is_remote_by_any_name() -> None:
    mounts = mounts_in(CONTAINER)
    assert [filesystem_of(path, mounts) for path in ("/mac/tasks.db", "/named/a.db")] == ["fakeowner", "fakeowner"]


def test_second_mount_of_single_file_is_other_mount_point() -> None:
    mounts = mounts_in(CONTAINER)
    assert other_mount_points("/volume/tasks.db", mounts) == ("/elsewhere/tasks.db",)
    assert other_mount_points("/mac/tasks.db", mounts) == ("/single/tasks.db",)
    assert other_mount_points("/volume/below/tasks.db", mounts) == other_mount_points("/tasks.db", ()) == ()


def test_mount_problem_without_mountinfo_is_found_by_device_number(tmp_path: Path) -> None:
    assert mount_problem("/proc", ()) is not None
    assert mount_problem(str(tmp_path / "missing.db"), ()) is None
    (tmp_path / "tasks.db").touch()
    assert mount_problem(str(tmp_path / "tasks.db"), ()) is None
