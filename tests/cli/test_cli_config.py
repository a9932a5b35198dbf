"""`backupd config`, and the option `--config` of every command."""

import json
import tomllib
from pathlib import Path

import pytest
from keyboard import Keyboard, Pair

from support.command import Backupd

BROKEN = """\
[sources.tasks]
path = "{database}"

[retention]
dayly = 7
weekly = "four"
"""


@pytest.fixture
def broken(database: Path, tmp_path: Path) -> Path:
    path = tmp_path / "broken.toml"
    path.write_text(BROKEN.format(database=database))
    return path


def test_check_names_file_line_and_key_of_each_error(backupd: Backupd, broken: Path) -> None:
    answer = Backupd({}, backupd.cwd)("config", "check", "--config", broken)
    assert (answer.code, answer.out) == (78, "")
    assert f"{broken}:5: retention.dayly: unknown key; did you mean retention.daily?" in answer.err
    assert f"{broken}:6: retention.weekly: must be a whole number" in answer.err
    assert "what to do: " in answer.err


def test_check_as_json_has_same_facts(broken: Path) -> None:
    answer = Keyboard({})("config", "check", "--config", broken, "--json")
    assert (answer.code, answer.json["exit_code"]) == (78, 78)
    assert f"{broken}:5: retention.dayly: " in answer.json["error"]


def test_check_accepts_valid_file_and_names_its_sources(pair: Pair) -> None:
    typed = Keyboard({})
    answer = typed("config", "check", "--config", pair.config)
    assert (answer.code, answer.out) == (0, f"{pair.config}: valid, sources: tasks, notes\n")
    facts = typed("config", "check", "--config", pair.config, "--json").json
    assert facts == {"origin": str(pair.config), "valid": True, "warnings": [], "notes": []}


def test_check_detects_two_sources_linked_to_one_database(pair: Pair) -> None:
    pair.notes.unlink()
    pair.notes.symlink_to(pair.tasks)
    answer = Keyboard({})("config", "check", "--config", pair.config)
    assert (answer.code, answer.out) == (78, "")
    assert f"the sources tasks and notes are the same database {pair.tasks.resolve()}" in answer.err


def test_show_prints_valid_configuration(typed: Keyboard, tmp_path: Path) -> None:
    shown = tmp_path / "shown.toml"
    shown.write_text(typed("config", "show").out)
    answer = Keyboard({})("config", "check", "--config", shown)
    assert (answer.code, answer.err) == (0, "")


def test_unknown_time_zone_in_tz_warns_and_degrades_nothing(typed: Keyboard) -> None:
    answer = typed("config", "check", TZ="CET-1CEST,M3.5.0,M10.5.0/3")
    assert answer.code == 0
    assert "warning: TZ='CET-1CEST,M3.5.0,M10.5.0/3' is not an IANA time zone" in answer.err
    assert typed("config", "check", TZ="UTC0", BACKUPD_SCHEDULE__TIMEZONE="Europe/Berlin").err == ""
    report = typed("backup", "--json", TZ="UTC0")
    assert (report.code, [note[:8] for note in report.json["notes"]]) == (0, ["TZ='UTC0"])
    findings = {finding["check"]: finding for finding in typed("doctor", "--json", TZ="UTC0").json}
    assert (findings["time zone"]["ok"], "TZ='UTC0'" in findings["time zone"]["detail"]) == (False, True)


def test_links_to_service_named_backupd_are_noted_by_show_check_and_doctor(typed: Keyboard) -> None:
    links = {"BACKUPD_PORT": "tcp://10.0.0.1:8080", "BACKUPD_SERVICE_HOST": "10.0.0.1", "BACKUPD_SERVICE_PORT": "8080"}
    said = "ignored BACKUPD_PORT and 2 more: set by Kubernetes or Docker"
    assert f"note: {said}" in typed("config", "show", **links).err
    assert f"note: {said}" in typed("config", "check", **links).err
    assert typed("config", "check", "--json", **links).json["notes"][0].startswith(said)
    answer = typed("doctor", **links)
    assert answer.out.startswith(f"ok     configuration: from environment; {said}")


def test_health_with_quoted_address_reports_configuration_error(typed: Keyboard) -> None:
    answer = typed("health", BACKUPD_HTTP__LISTEN='"0.0.0.0:8080"')
    assert (answer.code, "environment BACKUPD_HTTP__LISTEN: has quotes around its value" in answer.err) == (78, True)


SECRETS = {
    "BACKUPD_HTTP__TOKEN": "hunter2-token-of-16",
    "BACKUPD_REPLICAS__NAS__URL": "sftp://backup@nas/backups",
    "BACKUPD_REPLICAS__NAS__PASSWORD": "hunter2-password",
    "BACKUPD_NOTIFY__URLS": "ntfy://hunter2-topic",
    "BACKUPD_PINGS__BACKUP": "https://ping.example/hunter2",
}


def test_show_masks_every_secret(backupd: Backupd) -> None:
    for arguments in ((), ("--json",)):
        answer = backupd("config", "show", *arguments, **SECRETS)
        assert answer.code == 0
        assert "hunter2" not in answer.out + answer.err
        facts = json.loads(answer.out) if arguments else tomllib.loads(answer.out)
        assert facts["http"]["token"] == facts["replicas"]["nas"]["password"] == "[secret]"
        assert facts["retention"]["daily"] == 7


def test_show_names_origin_of_configuration(typed: Keyboard, pair: Pair) -> None:
    assert typed("config", "show").out.startswith("# from environment\n")
    assert Keyboard({})("config", "show", "--config", pair.config).out.startswith(f"# from {pair.config}\n")


@pytest.mark.parametrize(
    "command",
    [
        ("backup",),
        ("list",),
        ("show", "tasks-20261123-0400"),
        ("verify",),
        ("prune",),
        ("restore", "--to", "/nowhere/x.db"),
        ("doctor",),
        ("config", "show"),
        ("config", "check"),
        ("catalog", "rebuild"),
    ],
    ids=" ".join,
)
def test_every_command_reads_given_file_and_refuses_invalid_one(
    pair: Pair, broken: Path, command: tuple[str, ...]
) -> None:
    typed = Keyboard({})
    answer = typed(*command, "--config", broken, "--json")
    assert (answer.code, str(broken) in answer.json["error"]) == (78, True)
    answer = typed(*command, "--config", broken.with_name("no-such.toml"), "--json")
    assert (answer.code, "no-such.toml" in answer.json["error"]) == (78, True)
    assert typed(*command, "--config", pair.config, "--json").code in (0, 1)


def test_configuration_file_is_named_by_environment_and_option_takes_precedence(pair: Pair, broken: Path) -> None:
    typed = Keyboard({"BACKUPD_CONFIG": str(pair.config)})
    assert typed("config", "check", "--json").json["origin"] == str(pair.config)
    assert typed("config", "check", "--config", broken).code == 78


# --- catalog ---


def test_rebuild_reports_number_of_generations(typed: Keyboard, backups: Path, generation: str) -> None:
    for path in (backups / ".backupd").glob("catalog.sqlite3*"):
        path.unlink()
    assert typed("catalog", "rebuild").out == "catalog rebuilt: 1 generations\n"
    assert typed("catalog", "rebuild", "--json").json == {"generations": 1}
    assert [fact["id"] for fact in typed("list", "--json").json] == [generation]
