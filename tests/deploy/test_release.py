"""What a release is made of: the lock, the labels of the image, the workflows and forms of both platforms."""

import json
import re
import subprocess
import sys
import tomllib
from datetime import date, datetime
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from backupd import __version__
from support.containers import ROOT

pytestmark = pytest.mark.no_cover

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = (ROOT / "requirements.lock").read_text()
DOCKERFILE = (ROOT / "Dockerfile").read_text()
# Each file with the schema that its platform publishes.
SCHEMAS = {
    "github-workflows": [".github/workflows/*.yml", ".forgejo/workflows/*.yml", "deploy/forgejo/*.yml"],
    "github-issue-forms": [".github/ISSUE_TEMPLATE/*.yml", ".forgejo/issue_template/*.yml"],
    "renovate": ["renovate.json"],
    "compose-spec": ["deploy/compose.yml", "deploy/swarm.yml", "deploy/coolify.yml"],
}


def locked() -> dict[str, str]:
    """Return the version of each package in the lock."""
    found = re.findall(r"^([a-z0-9-]+)==([^ ;\\]+)", LOCK, re.MULTILINE)
    return {name: version.strip() for name, version in found}


def test_lock_has_each_dependency_in_a_version_that_fits() -> None:
    versions = locked()
    for line in PROJECT["dependencies"]:
        wanted = Requirement(line)
        assert wanted.specifier.contains(versions[canonicalize_name(wanted.name)]), f"run scripts/lock: {line}"


def test_each_line_of_lock_has_digests_and_no_address() -> None:
    entries = re.split(r"^(?=[a-z])", LOCK, flags=re.MULTILINE)[1:]
    assert len(entries) == len(locked()) > len(PROJECT["dependencies"])
    assert [entry.split()[0] for entry in entries if "--hash=sha256:" not in entry] == []
    assert "://" not in LOCK.partition("#    uv ")[2]


def test_lock_begins_with_command_that_renovate_repeats() -> None:
    # constraintLineRegex of its manager pip-compile; an option with a value needs the sign
    found = re.match(r"(#.*?\n)+# {4}(?P<command>\S*)(?P<arguments> .*?)?\n", LOCK)
    assert found is not None
    assert found["command"] == "uv"
    assert found["arguments"].split()[-2:] == ["--output-file=requirements.lock", "pyproject.toml"]
    script = (ROOT / "scripts" / "lock").read_text()
    (choices,) = re.findall(r'^choices="(.*)"$', script, re.MULTILINE)
    assert f" pip compile {choices} " in found["arguments"]
    renovate = json.loads((ROOT / "renovate.json").read_text())
    assert "pip-compile" in renovate["enabledManagers"]
    assert renovate["pip-compile"]["managerFilePatterns"] == [r"/^requirements\.lock$/"]


def test_changelog_has_versions_with_dates_and_known_kinds() -> None:
    unreleased, *versions = re.split(r"^## ", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)[1:]
    assert unreleased.partition("\n")[0] == "Unreleased"
    headings = [version.partition("\n")[0].split(" - ") for version in versions]
    assert headings[0][0] == PROJECT["version"] == __version__
    released = [date.fromisoformat(day) for _, day in headings]
    assert released == sorted(released, reverse=True)
    kinds = [re.findall(r"^### (.*)$", each, re.MULTILINE) for each in (unreleased, *versions)]
    order = ["Upgrading", "Added", "Security", "Fixed", "Changed", "Removed"]
    assert kinds == [[kind for kind in order if kind in found] for found in kinds]


def test_image_is_built_from_lock_on_a_base_that_can_be_given_by_digest() -> None:
    assert "--require-hashes -r requirements.lock" in DOCKERFILE
    assert re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE) == ["$BASE", "$BASE"]


def test_labels_are_valid_without_any_build_argument() -> None:
    defaults = dict(re.findall(r"^ARG (\w+)=(.*)$", DOCKERFILE, re.MULTILINE))
    assert defaults["VERSION"] == PROJECT["version"]
    assert defaults["REVISION"] == f"v{PROJECT['version']}"
    assert datetime.fromisoformat(defaults["CREATED"]).tzinfo is not None
    labels = dict(re.findall(r'org\.opencontainers\.image\.([a-z.]+)="([^"]*)"', DOCKERFILE))
    # https://specs.opencontainers.org/image-spec/annotations/
    assert set(labels) == {
        *("title", "description", "vendor", "licenses", "url", "source", "documentation"),
        *("base.name", "version", "revision", "created"),
    }
    home = PROJECT["urls"]["Homepage"]
    assert (labels["url"], labels["source"]) == (home, PROJECT["urls"]["Source"])
    assert labels["documentation"] == PROJECT["urls"]["Documentation"]
    assert all(url.startswith(home) for url in PROJECT["urls"].values())


@pytest.mark.parametrize(("schema", "patterns"), SCHEMAS.items())
def test_platform_accepts_file(schema: str, patterns: list[str]) -> None:
    files = [path for pattern in patterns for path in sorted(ROOT.glob(pattern))]
    assert len(files) >= len(patterns)
    program = Path(sys.executable).with_name("check-jsonschema")
    done = subprocess.run(
        [program, "--builtin-schema", f"vendor.{schema}", *files], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_workflows_run_tests_on_each_supported_python() -> None:
    supported = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    for place in (".github", ".forgejo"):
        workflow = (ROOT / place / "workflows" / "test.yml").read_text()
        assert re.findall(r"'(3\.\d+)'", workflow) == supported
        assert ".ci/run" in workflow


def test_issue_forms_of_both_platforms_have_same_fields() -> None:
    forms = [ROOT / ".github/ISSUE_TEMPLATE/problem.yml", ROOT / ".forgejo/issue_template/problem.yml"]
    assert forms[0].read_text() == forms[1].read_text()
    assert "backupd doctor --json" in forms[0].read_text()
    assert "backupd config show" in forms[0].read_text()
