"""The one-click template: CapRover's own rules, its traps, and a configuration that is valid whatever is filled in."""

import base64
import json
import re
import subprocess
import sys
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from backupd.config import Config, load_config
from backupd.config.sections import RetentionSection, ScheduleSection
from backupd.privileges import Owner, decide_identity
from backupd.stores.sftp.auth import load_key
from backupd.stores.sftp.host_keys import PinnedKeys
from backupd.stores.sftp.url import SftpAddress, parse_address
from support.caprover import defaults, deployed, form_accepts, ids_in_order, template_of
from support.containers import HARDENED, ROOT

pytestmark = pytest.mark.no_cover

HERE = ROOT / "deploy" / "caprover"
FILE = HERE / "backupd.yml"
OPTIONAL = {
    *(
        "$$cap_database_file",
        "$$cap_files_path",
        "$$cap_offsite_url",
        "$$cap_offsite_host_key",
        "$$cap_offsite_private_key",
    ),
    *("$$cap_backup_schedule", "$$cap_offsite_schedule"),
    *("$$cap_keep_daily", "$$cap_keep_weekly", "$$cap_keep_monthly"),
    *("$$cap_timezone", "$$cap_token", "$$cap_puid", "$$cap_pgid"),
    *("$$cap_notify_urls", "$$cap_daily_ping", "$$cap_actions", "$$cap_backup_token"),
}
REQUIRED = {"$$cap_source_path": "/var/lib/docker/volumes/x/_data"}  # without a default
KEY = Ed25519PrivateKey.generate()
KEY_FILE = KEY.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
FILLED = {
    "$$cap_image": "ghcr.io/example/backupd",
    "$$cap_app_version": "1.2.3-rc.1",
    "$$cap_source_path": "/var/lib/docker/volumes/captain--my-app-data/_data",
    "$$cap_database_file": "gitea/gitea.db",
    "$$cap_files_path": "/app/data/gitea/attachments",
    "$$cap_offsite_url": "sftp://backup@nas.example:2222/backups/my-app",
    "$$cap_offsite_host_key": KEY.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode(),
    "$$cap_offsite_private_key": base64.b64encode(KEY_FILE).decode(),
    "$$cap_backup_schedule": "0 */6 * * *",
    "$$cap_offsite_schedule": "sun 05:00",
    "$$cap_keep_daily": "14",
    "$$cap_keep_weekly": "8",
    "$$cap_keep_monthly": "12",
    "$$cap_timezone": "Europe/Berlin",
    "$$cap_token": "s3cret/+~=s3cret",
    "$$cap_actions": "true",
    "$$cap_backup_token": "an0ther/+~=s3cret",
    "$$cap_notify_urls": "tgram://123456:A-b_c/987,mailtos://me%40home:p%21@smtp.example.com?to=a@b.c",
    "$$cap_daily_ping": "https://kuma.example.com/api/push/t0ken?status=up&msg=OK&ping=",
    "$$cap_puid": "1000",
    "$$cap_pgid": "100",
}


@pytest.fixture
def template() -> Any:
    return template_of(FILE)


@pytest.fixture(params=["backupd", "backupd-gate"])
def file(request: pytest.FixtureRequest) -> Path:
    """Each template: of backupd, and of the gate."""
    return HERE / f"{request.param}.yml"


@pytest.fixture
def each(file: Path) -> Any:
    return template_of(file)


@pytest.fixture
def variables(template: Any) -> dict[str, dict[str, str]]:
    return {variable["id"]: variable for variable in template["caproverOneClickApp"]["variables"]}


def service_of(template: Any, app_name: str = "my-backup") -> Any:
    assert list(template["services"]) == [app_name]
    return template["services"][app_name]


def environ_of(template: Any) -> dict[str, str]:
    """Return the environment of the container: what the image sets, under what the template sets."""
    lines = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text()).splitlines()
    last_stage = lines[max(number for number, line in enumerate(lines) if line.startswith("FROM ")) :]
    words = [word for line in last_stage if line.startswith("ENV ") for word in line.split()[1:]]
    image = dict(word.split("=", 1) for word in words)
    return {**image, **service_of(template)["environment"]}


def config_of(template: Any) -> Config:
    return load_config(None, environ_of(template), Path("/no/such/directory"))


# --- CapRover's own rules ---


def test_validator_finds_its_errors(each: Any) -> None:
    app = each["caproverOneClickApp"]
    assert each["captainVersion"] == 4
    assert set(each) == {"captainVersion", "services", "caproverOneClickApp"}
    assert 0 < len(app["description"]) <= 200
    assert app["instructions"]["start"]
    assert app["instructions"]["end"]
    assert app["displayName"].startswith("backupd")
    assert app["isOfficial"] is False
    assert app["documentation"]


def test_logo_is_small() -> None:
    png = (HERE / "logo.png").read_bytes()
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    assert (png[12:16], png[16:24]) == (b"IHDR", bytes([0, 0, 0, 128]) * 2)
    assert len(png) < 20_000


def test_template_has_no_setting_that_caprover_ignores(each: Any) -> None:
    service = service_of(each, "$$cap_appname")
    read = {"image", "environment", "ports", "volumes", "depends_on", "hostname", "command", "cap_add"}
    assert set(service) - {"caproverExtra"} <= read
    assert set(service["caproverExtra"]) == {"containerHttpPort"}
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert f"EXPOSE {service['caproverExtra']['containerHttpPort']}\n" in dockerfile


def test_environment_maps_names_to_strings(each: Any) -> None:
    environment = service_of(each, "$$cap_appname")["environment"]
    assert isinstance(environment, dict)
    assert all(isinstance(value, str) for value in environment.values())


def test_volumes_have_no_option_that_caprover_drops(template: Any) -> None:
    volumes = service_of(deployed(template, FILLED))["volumes"]
    assert [volume.split(":") for volume in volumes] == [
        ["/var/lib/docker/volumes/captain--my-app-data/_data", "/app/data"],
        ["my-backup-backups", "/backups"],
    ]
    label = volumes[1].split(":")[0]
    assert re.fullmatch("[A-Za-z0-9_.-]+", label)
    assert "--" not in label


def test_default_version_is_current_and_not_latest(each: Any) -> None:
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    assert defaults(each)["$$cap_app_version"] == version[1]


def test_template_is_formatted_like_other_templates(file: Path) -> None:
    text = file.read_text()
    indents = {len(line) - len(line.lstrip(" -")) for line in text.split("    instructions:")[0].splitlines()}
    assert indents <= {0, 4, 8, 10, 12, 14}  # four spaces; a list item is two wider
    assert "\t" not in text
    assert not re.search(r': "', text.split("    instructions:")[0]), "double quotes"
    assert all(line == line.rstrip() for line in text.splitlines())


# --- Its traps ---


def test_no_variable_is_prefix_of_later_one(each: Any) -> None:
    ids = ids_in_order(each)
    assert len(set(ids)) == len(ids)
    clashes = [(a, b) for i, a in enumerate(ids) for b in ids[i + 1 :] if b.startswith(a)]
    assert clashes == []


def test_every_variable_is_used_and_defined(each: Any) -> None:
    used = set(re.findall(r"\$\$cap_[a-z_]+[a-z]", json.dumps([each["services"]])))
    in_the_end = set(re.findall(r"\$\$cap_[a-z_]+[a-z]", each["caproverOneClickApp"]["instructions"]["end"]))
    ids = ids_in_order(each)
    assert used | {ids[-1]} == set(ids)
    assert in_the_end <= set(ids)


def test_first_instructions_have_no_variables(each: Any) -> None:
    assert "$$cap" not in each["caproverOneClickApp"]["instructions"]["start"]


def test_each_field_has_description_and_pattern(each: Any) -> None:
    for variable in each["caproverOneClickApp"]["variables"]:
        assert set(variable) <= {"id", "label", "defaultValue", "description", "validRegex"}
        assert all(isinstance(value, str) and value for value in variable.values()), variable["id"]
        assert {"label", "description", "validRegex"} <= set(variable)


def test_form_accepts_defaults_and_optional_blanks(template: Any, variables: dict[str, dict[str, str]]) -> None:
    typed = {**defaults(template), **REQUIRED}
    for name, variable in variables.items():
        assert form_accepts(variable, "") == (name in OPTIONAL), name
        if "defaultValue" in variable:
            assert form_accepts(variable, variable["defaultValue"]), name
        assert form_accepts(variable, typed[name]), name
        assert form_accepts(variable, FILLED[name]), name


@pytest.mark.parametrize("value", ['a"b', "a\\b", "a b", "a:b\n", "$$cap_token"])
def test_form_refuses_values_that_break_template(variables: dict[str, dict[str, str]], value: str) -> None:
    assert [name for name, variable in variables.items() if form_accepts(variable, value)] == []


@pytest.mark.parametrize("value", ["my-volume", "relative/path", "/a:/b", "/a b"])
def test_volume_is_host_path(variables: dict[str, dict[str, str]], value: str) -> None:
    assert not form_accepts(variables["$$cap_source_path"], value)


@pytest.mark.parametrize("value", ["uploads", "/uploads", "/app/data", "/app/data/", "/app/database", "/app/data/a:b"])
def test_directory_of_files_is_one_inside_volume(variables: dict[str, dict[str, str]], value: str) -> None:
    assert not form_accepts(variables["$$cap_files_path"], value)


# --- What comes out ---


def test_configuration_with_defaults_is_valid(template: Any) -> None:
    made = deployed(template, {**defaults(template), **REQUIRED})
    assert service_of(made)["image"] == f"registry.example.com/backupd:{defaults(template)['$$cap_app_version']}"
    assert environ_of(made)["BACKUPD_DATABASE"] == "/app/data/"  # a directory: its database is found
    config = config_of(made)
    assert [source.path for source in config.sources.values()] == [Path("/app/data")]
    assert (config.files, config.replicas) == ({}, {})
    assert config.retention == RetentionSection()
    assert config.schedule == ScheduleSection(timezone="Etc/UTC")
    assert config.backups_dir == Path("/backups")
    assert config.schedule.timezone == "Etc/UTC"
    assert config.http.token is None
    assert config.http.listen == "0.0.0.0:8080"


def test_configuration_with_blank_optional_fields_is_valid(template: Any) -> None:
    made = deployed(template, {**defaults(template), **REQUIRED, **dict.fromkeys(OPTIONAL, "")})
    config = config_of(made)
    assert config.schedule.timezone == "UTC"
    assert config.http.token is None
    assert running_as(made) == (1234, 5678)


def test_configuration_with_all_fields_is_valid(template: Any) -> None:
    made = deployed(template, FILLED)
    config = config_of(made)
    assert config.sources["gitea"].path == Path("/app/data/gitea/gitea.db")
    assert {name: one.path for name, one in config.files.items()} == {"uploads": Path("/app/data/gitea/attachments")}
    assert config.schedule.timezone == "Europe/Berlin"
    assert config.http.token is not None
    assert config.http.token.get_secret_value() == FILLED["$$cap_token"]
    assert config.http.actions
    assert config.http.backup_token is not None
    assert config.http.backup_token.get_secret_value() == FILLED["$$cap_backup_token"]
    assert len(config.notify.urls) == 2
    assert list(config.pings) == ["daily"]
    assert running_as(made) == (1000, 100)
    assert (config.schedule.backup, config.schedule.replicate) == ("0 */6 * * *", "sun 05:00")
    assert (config.retention.daily, config.retention.weekly, config.retention.monthly) == (14, 8, 12)


def test_off_site_fields_are_address_host_key_and_login_key(template: Any) -> None:
    offsite = config_of(deployed(template, FILLED)).replicas["offsite"]
    address = parse_address(offsite.url)
    assert address == SftpAddress("nas.example", 2222, "backup", "/backups/my-app")
    assert offsite.private_key is not None
    key = load_key(offsite.private_key.get_secret_value())
    assert f"{key.get_name()} {key.get_base64()}" == FILLED["$$cap_offsite_host_key"]  # the test has one for both
    assert PinnedKeys.read("offsite", offsite.host_key, None)


@pytest.mark.parametrize("url", ["sftp://nas.example", "sftp://nas.example/", "nas:/backups", "file:/backups", "/x"])
def test_off_site_copies_need_a_directory_of_another_host(variables: dict[str, dict[str, str]], url: str) -> None:
    assert not form_accepts(variables["$$cap_offsite_url"], url)


def test_capabilities_are_those_of_the_hardened_container(template: Any) -> None:
    added = {option.removeprefix("--cap-add=") for option in HARDENED if option.startswith("--cap-add=")}
    assert set(service_of(template, "$$cap_appname")["cap_add"]) == added


@pytest.mark.parametrize("service", ["my-backup", "srv-captain--my-backup"])
def test_commands_find_container_before_and_after_caprover_1_15(template: Any, service: str) -> None:
    end = deployed(template, FILLED)["caproverOneClickApp"]["instructions"]["end"]
    patterns = re.findall("'name=([^']+)'", end)
    assert len(patterns) == 2
    for pattern in patterns:
        assert re.search(pattern, f"{service}.1.x0y1z2")
        assert not re.search(pattern, f"{service}-db.1.x0y1z2")
        assert not re.search(pattern, f"other-{service}.1.x0y1z2")


# --- The repository ---


def test_repository_has_the_layout_that_caprover_fetches(tmp_path: Path) -> None:
    command = [sys.executable, HERE / "repository.py", tmp_path, "ghcr.io/example/backupd"]
    subprocess.run(command, check=True, timeout=60)
    listed = {one["name"]: one for one in json.loads((tmp_path / "dist/v4/list").read_text())["oneClickApps"]}
    assert list(listed) == ["backupd", "backupd-gate"]
    for name, facts in listed.items():
        app = json.loads((tmp_path / "dist/v4/apps" / name).read_text())
        assert app == yaml.safe_load((tmp_path / f"public/v4/apps/{name}.yml").read_text())
        assert defaults(app)["$$cap_image"] == "ghcr.io/example/backupd"
        assert set(facts) == {"name", "displayName", "description", "isOfficial", "logoUrl"}
        assert (facts["logoUrl"], facts["isOfficial"]) == (f"{name}.png", False)
        for tree in ("public", "dist"):
            assert (tmp_path / tree / f"v4/logos/{name}.png").read_bytes() == (HERE / "logo.png").read_bytes()


def test_template_runs_as_owner_of_database(template: Any) -> None:
    assert running_as(deployed(template, {**defaults(template), **REQUIRED})) == (1234, 5678)


def running_as(template: Any) -> tuple[int, int]:
    """Return whom the container becomes beside a database of 1234:5678."""
    owner = Owner(Path("/app/data/tasks.db"), 1234, 5678)
    identity = decide_identity(environ_of(template), 0, frozenset({0}), [owner], lambda _uid: None)
    assert identity is not None
    return identity.uid, identity.gid


def test_instructions_have_names_of_deployed_app(template: Any) -> None:
    end = deployed(template, FILLED)["caproverOneClickApp"]["instructions"]["end"]
    assert "https://my-backup.example.com/health" in end
    assert "$$" not in end


# --- What stands beside the template ---


def test_captain_definition_builds_dockerfile() -> None:
    definition = json.loads((ROOT / "captain-definition").read_text())
    assert definition == {"schemaVersion": 2, "dockerfilePath": "./Dockerfile"}
    assert (ROOT / definition["dockerfilePath"]).is_file()


def test_dockerfile_works_with_classic_builder() -> None:
    text = (ROOT / "Dockerfile").read_text()
    instructions = [line for line in text.splitlines() if not line.lstrip().startswith("# ")]
    assert not re.search(r"--mount=|--chmod=|--link|<<", "\n".join(instructions))
    assert not text.lower().startswith("# syntax")


def test_override_has_mounts_of_template_and_fewest_capabilities(template: Any) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (HERE / "README.md").read_text(), re.DOTALL)
    override = yaml.safe_load(blocks[0])["TaskTemplate"]
    container = override["ContainerSpec"]
    added = {f"CAP_{option.removeprefix('--cap-add=')}" for option in HARDENED if option.startswith("--cap-add=")}
    assert (container["CapabilityDrop"], set(container["CapabilityAdd"])) == (["ALL"], added)
    targets = {mount["Target"] for mount in container["Mounts"]}
    volumes = service_of(template, "$$cap_appname")["volumes"]
    assert targets == {*(PurePosixPath(volume.split(":")[1]).as_posix() for volume in volumes), "/tmp"}
    assert container["ReadOnly"] is True
    assert container["StopGracePeriod"] <= 60 * 10**9
