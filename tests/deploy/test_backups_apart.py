"""Every example puts the backups into a volume of their own, which the app does not mount."""

import re
from pathlib import PurePosixPath

import pytest
import yaml

from support.caprover import template_of
from support.containers import ROOT

pytestmark = pytest.mark.no_cover

TEMPLATE = template_of(ROOT / "deploy" / "caprover" / "backupd.yml")


def volume_of(path: str, volumes: list[str]) -> str:
    """Return the volume in which a path of the container lies; `volumes` are `VOLUME:POINT`."""
    by_point = {PurePosixPath(point): volume for volume, point, *_ in (one.split(":") for one in volumes)}
    place = PurePosixPath(path)
    return next(by_point[above] for above in (place, *place.parents) if above in by_point)


def assert_apart(environment: dict[str, str], volumes: list[str]) -> str:
    """Return the volume of the backups, which is not that of the database."""
    own = volume_of(environment["BACKUPD_BACKUPS_DIR"], volumes)
    assert own != volume_of(environment["BACKUPD_DATABASE"], volumes)
    return own


@pytest.mark.parametrize("name", ["compose.yml", "coolify.yml", "swarm.yml"])
def test_compose_file_gives_backups_a_volume_that_app_does_not_mount(name: str) -> None:
    project = yaml.safe_load((ROOT / "deploy" / name).read_text())
    backupd = project["services"].pop("backupd")
    environment = backupd["environment"]
    if isinstance(environment, list):
        environment = dict(one.split("=", 1) for one in environment if "=" in one)
    own = assert_apart(environment, backupd["volumes"])
    assert own in project["volumes"]
    others = [one for service in project["services"].values() for one in service.get("volumes", ())]
    assert [one for one in others if one.startswith(f"{own}:")] == []


def test_caprover_template_gives_backups_a_volume_of_their_own() -> None:
    (service,) = TEMPLATE["services"].values()
    assert assert_apart(service["environment"], service["volumes"]) == "$$cap_appname-backups"


@pytest.mark.parametrize("page", ["README.md", "docs/container.md"])
def test_first_command_of_page_gives_backups_a_volume_of_their_own(page: str) -> None:
    text = (ROOT / page).read_text().replace("\\\n", " ")
    command = next(line for line in text.splitlines() if line.startswith("docker run -d"))
    environment = dict(word.split("=", 1) for word in re.findall(r"-e (\S+)", command))
    assert_apart(environment, re.findall(r"-v (\S+)", command))
