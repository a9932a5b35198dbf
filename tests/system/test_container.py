"""How a command is run in this container, by the mounts that engines make."""

import socket

import pytest

from backupd.system.container import exec_prefix, host_name
from backupd.system.mounts import mounts_in

ID = "0a1b2c3d4e5f" + "6" * 52


def prefix(root: str, **environ: str) -> str:
    return exec_prefix(environ, mounts_in(f"41 40 8:1 {root} /etc/hostname rw,relatime - ext4 /dev/sda1 rw\n"))


@pytest.mark.parametrize(
    ("root", "words"),
    [
        (f"/var/lib/docker/containers/{ID}/hostname", "docker exec 0a1b2c3d4e5f "),
        (f"/docker/containers/{ID}/resolv.conf", "docker exec 0a1b2c3d4e5f "),
        (f"/var/lib/containers/storage/overlay-containers/{ID}/userdata/hosts", "podman exec 0a1b2c3d4e5f "),
        ("/", ""),
        (f"/srv/{ID}/hostname", ""),
    ],
)
def test_prefix_is_command_of_engine_with_id(root: str, words: str) -> None:
    assert prefix(root) == words


def test_prefix_in_pod_names_pod_and_container(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "tasks-7d9f-x2x")
    root = "/var/lib/kubelet/pods/2c5f/containers/backupd/9a8b7c6d"
    assert prefix(root, KUBERNETES_SERVICE_HOST="10.0.0.1") == "kubectl exec tasks-7d9f-x2x -c backupd -- "
    assert prefix(root) == ""


def test_host_name_that_is_container_id_is_omitted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "0a1b2c3d4e5f")
    assert host_name() == ""
    monkeypatch.setattr(socket, "gethostname", lambda: "server-3")
    assert host_name() == "server-3"
