"""An SFTP host as a container, set up by the commands of docs/sftp-target.md: chroot, no shell, login by key.

It can be stopped and started again with all its files, as a host that is rebooted.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from support.containers import ROOT, Container, ContainerLab, build, docker
from support.openssh import new_key

DOCUMENT: Final = (ROOT / "docs" / "sftp-target.md").read_text()
FILES: Final = "/srv/backupd/backups"
_DOCKERFILE: Final = """
FROM python:3.13-slim-trixie
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends openssh-server
COPY account backupd.conf /
RUN sh -eu /account && mv /backupd.conf /etc/ssh/sshd_config.d/ && mkdir -p /run/sshd && sshd -t
EXPOSE 22
CMD ["/usr/sbin/sshd", "-D", "-e", "-o", "PerSourcePenalties=no"]
"""
# Stops all but the listening sshd, as soon as the part file of an archive has so many MiB.
_FREEZE: Final = """until [ "$(find .backupd -name '*.gz.part' -size +{mib}M)" ]; do sleep 0.02; done; kill -STOP -1"""


def blocks(language: str) -> list[str]:
    """Return the blocks of that language in docs/sftp-target.md."""
    return re.findall(rf"^```{language}\n(.*?)^```$", DOCUMENT, re.DOTALL | re.MULTILINE)


def build_sftp_host(directory: Path) -> str:
    """Build the image of the host in an empty `directory`; return its id."""
    (directory / "Dockerfile").write_text(_DOCKERFILE)
    (directory / "account").write_text(blocks("sh admin")[0])
    (directory / "backupd.conf").write_text(blocks("sshd_config")[0])
    return build(directory)


@dataclass(frozen=True)
class SftpHost:
    """A host in the network of a test, with its credentials; its files are in a volume for `ContainerLab.shell`."""

    container: Container
    volume: str
    private_key: str
    host_key: str

    @property
    def environ(self) -> dict[str, str]:
        """The settings that make this host the replica `offsite` of a sidecar in its network."""
        return {
            "BACKUPD_REPLICAS__OFFSITE__URL": f"sftp://backupd@{self.container.name}/backups",
            "BACKUPD_REPLICAS__OFFSITE__HOST_KEY": self.host_key,
            "BACKUPD_REPLICAS__OFFSITE__PRIVATE_KEY": self.private_key,
        }

    def sh(self, script: str) -> str:
        """Run a shell script in its directory of backups, with the rights of the account; return what it printed."""
        as_account = ("--user=backupd", f"--workdir={FILES}")
        answer = self.container.exec("sh", "-euc", script, options=as_account)
        assert answer.code == 0, answer.err
        return answer.out

    def freeze_in_the_middle(self, after_mib: int) -> None:
        """Wait until so much of an archive has arrived, then stop (SIGSTOP) the sessions of the account."""
        options = (f"--workdir={FILES}",)
        self.container.exec("sh", "-c", _FREEZE.format(mib=after_mib), options=options)

    def stop(self) -> None:
        """Stop it and its connections; its name no longer resolves."""
        self.container.stop(timeout_s=5)

    def start(self) -> None:
        """Start it again, and wait until it listens."""
        docker("start", self.container.name)
        self.ready()

    def ready(self) -> None:
        """Wait until it answers, for the first time or once more."""
        connect = "for _ in {1..600}; do (exec 3<>/dev/tcp/127.0.0.1/22) 2>&- && exit; sleep 0.05; done; exit 1"
        assert self.container.exec("bash", "-c", connect).code == 0, f"the SFTP host: {self.container.logs()}"


def start_sftp_host(lab: ContainerLab, image: str, network: str, keys: Path, *options: str) -> SftpHost:
    """Start a host in `network`; the key pair that it accepts is made in the directory `keys`."""
    volume = lab.volume()
    container = lab.start(image, options=(f"--network={network}", f"--volume={volume}:{FILES}", *options))
    line = f"restrict {new_key(keys / 'offsite-key')}"
    container.exec("sh", "-c", f"echo '{line.strip()}' >/etc/ssh/authorized_keys/backupd")
    shown = container.exec("cat", "/etc/ssh/ssh_host_ed25519_key.pub").out
    host = SftpHost(container, volume, (keys / "offsite-key").read_text(), " ".join(shown.split()[:2]))
    host.ready()
    return host
