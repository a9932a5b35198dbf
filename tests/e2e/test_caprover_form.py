"""The one-click form, filled in by an operator and started as CapRover starts it, beside an app and an SFTP host."""

import base64
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from support.caprover import TEMPLATE, defaults, deployed, form_accepts, template_of
from support.containers import Container, ContainerLab, docker, docker_program
from support.sftp_host import FILES, SftpHost

APP = "my-backup"
HEALTH = "http://127.0.0.1:8080/health"


@pytest.fixture
def service(lab: ContainerLab, host: SftpHost, network: str, volume: str) -> Iterator[Container]:
    """The service of the form: its image, variables, volumes by the names of CapRover, and capabilities."""
    template = template_of(TEMPLATE)
    name = f"{APP}-{lab.volume().rpartition('e2e-')[2]}"
    typed = {
        **defaults(template),
        "$$cap_image": "backupd",
        "$$cap_app_version": name,
        "$$cap_source_path": docker("volume", "inspect", "--format={{.Mountpoint}}", volume).out.strip(),
        "$$cap_files_path": "/app/data/uploads",
        "$$cap_offsite_url": f"sftp://backupd@{host.container.name}/backups/{APP}",
        "$$cap_offsite_host_key": host.host_key,
        "$$cap_offsite_private_key": base64.b64encode(host.private_key.encode()).decode(),
        "$$cap_timezone": "Europe/Berlin",
        "$$cap_token": "0123456789abcdef",
    }
    for variable in template["caproverOneClickApp"]["variables"]:
        assert form_accepts(variable, typed.get(variable["id"], "")), variable["id"]
    made = deployed(template, typed, name)
    (form,) = made["services"].values()
    mounts = [volume if volume.startswith("/") else f"captain--{volume}" for volume in form["volumes"]]
    container = Container(f"srv-captain--{name}.1.x0y1z2")
    with ExitStack() as stack:
        docker("tag", lab.image, form["image"])
        upload = "mkdir /app/data/uploads && echo hello >/app/data/uploads/note.txt"
        beside = ("--rm", "--user=1000:1000", f"--volume={volume}:/app/data", "--entrypoint=sh")
        docker("run", *beside, lab.image, "-euc", upload)
        stack.callback(docker, "rmi", form["image"], check=False)
        stack.callback(docker, "volume", "rm", "--force", f"captain--{name}-backups", check=False)
        stack.callback(docker, "rm", "--force", container.name, check=False)
        docker(
            *("run", "--detach", "--name", container.name, f"--network={network}"),
            *(f"--volume={mount}" for mount in mounts),
            *(f"--cap-add={capability}" for capability in form["cap_add"]),
            *(f"--env={key}={value}" for key, value in form["environment"].items()),
            form["image"],
        )
        container.answers("http://127.0.0.1:8080/livez")
        yield container


def test_filled_form_backs_up_and_replicates_as_its_end_text_says(service: Container, host: SftpHost) -> None:
    service.answers(HEALTH, 120)
    assert "backs up tasks, uploads as user 1000:1000 (the owner of /app/data/tasks.db)" in service.logs()
    template = template_of(TEMPLATE)
    name = service.name.removeprefix("srv-captain--").partition(".")[0]
    end = deployed(template, defaults(template), name)["caproverOneClickApp"]["instructions"]["end"]
    commands = re.findall(r"^ +(docker exec .*)$", end, re.MULTILINE)
    assert len(commands) == 2
    for command in (*commands, commands[0].replace("doctor", "replicate")):
        line = command.replace("docker ", f"{docker_program()} ")
        done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, (line, done)
    copies = host.container.exec("sh", "-euc", f"cd {FILES}/{APP}; sha256sum --strict -c SHA256SUMS").out
    assert copies.count(": OK") >= 1, copies
    rows = service.exec("backupd", "list", "--json").json
    assert {tuple(sorted(row["stores"])) for row in rows} == {("local", "offsite")}
    assert {row["source"] for row in rows} == {"tasks", "uploads"}
    assert "`backupd restore --point latest`" in end
    service.exec("rm", "/app/data/tasks.db", "/app/data/uploads/note.txt")
    assert service.exec("backupd", "restore", "--point", "latest").code == 0
    assert service.exec("cat", "/app/data/uploads/note.txt").out == "hello\n"
    assert service.get("http://127.0.0.1:8080/")[0] == 401
