"""A configuration that other users can write is ignored; an absurd one ends with one line and in time."""

import os
import shlex
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from backupd.config import load_config
from backupd.config.file import lines_of
from backupd.config.schema import all_keys
from backupd.errors import ConfigError
from support.command import Backupd

DATABASE = {"BACKUPD_DATABASE": "/app/data/tasks.db"}
SOURCE = '[sources.tasks]\npath = "/app/data/tasks.db"\n'
STRANGER = 4711
AT_ONCE_S = 5.0  # of this process, whatever else the machine does

needs_root = pytest.mark.root


def refusal(file: Path | None, environ: dict[str, str] | None = None, cwd: Path | None = None) -> str:
    """Return the message of the ConfigError, which comes soon and shows no secret."""
    began = time.process_time()
    with pytest.raises(ConfigError) as caught:
        load_config(file, environ or {}, cwd)
    assert time.process_time() - began < AT_ONCE_S
    assert caught.value.exit_code == 78
    assert "hunter2" not in caught.value.message + caught.value.hint
    return caught.value.message


# --- ./backupd.toml of somebody else ---


def of_a_stranger(path: Path) -> None:
    os.chown(path, STRANGER, STRANGER)


def open_to_all(path: Path) -> None:
    path.chmod(0o666)


def open_to_a_group(path: Path) -> None:
    path.chmod(0o664)


def in_a_directory_of_a_stranger(path: Path) -> None:
    os.chown(path.parent, STRANGER, STRANGER)


def in_an_open_directory(path: Path) -> None:
    path.parent.chmod(0o777)


def in_a_sticky_directory(path: Path) -> None:
    path.parent.chmod(0o1777)


def below_an_open_directory(path: Path) -> None:
    path.parent.parent.chmod(0o777)


def by_a_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere.toml"))
    path.symlink_to("elsewhere.toml")


def by_a_hard_link(path: Path) -> None:
    path.with_name("other.toml").hardlink_to(path)


def as_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("plant", "why"),
    [
        pytest.param(of_a_stranger, f"it belongs to another user (uid {STRANGER})", marks=needs_root),
        (open_to_all, "it can be written by other users (mode 0666)"),
        (open_to_a_group, "it can be written by other users (mode 0664)"),
        pytest.param(in_a_directory_of_a_stranger, f"here belongs to another user (uid {STRANGER})", marks=needs_root),
        (in_an_open_directory, "here can be written by other users (mode 0777)"),
        (in_a_sticky_directory, "here can be written by other users (mode 1777)"),
        (below_an_open_directory, "above can be written by other users (mode 0777)"),
        (by_a_link, "it is not a regular file"),
        (by_a_hard_link, "it has another name (hard link)"),
        (as_a_pipe, "it is not a regular file"),
    ],
)
def test_local_file_writable_by_others_is_ignored_and_named(
    plant: Callable[[Path], None], why: str, backupd: Backupd, tmp_path: Path
) -> None:
    here = tmp_path / "above" / "here"
    here.mkdir(parents=True)
    planted = here / "backupd.toml"
    planted.write_text('[sources.evil]\npath = "/etc/shadow"\n')
    plant(planted)
    said = Backupd(backupd.environ, here)("config", "show")
    assert (said.code, "# from environment" in said.out, "evil" in said.out) == (0, True, False)
    (line,) = said.err.splitlines()
    assert line.startswith(f"warning: {planted} is ignored: ")
    assert why in line
    assert line.endswith("to use it, name it with --config or BACKUPD_CONFIG")
    nothing = refusal(None, {}, here)
    assert nothing.splitlines()[1:] == [line.removeprefix("warning: ")]
    assert load_config(None, DATABASE, here).skipped == line.removeprefix("warning: ")


def test_local_file_of_user_below_sticky_directory_is_read(tmp_path: Path) -> None:
    here = tmp_path / "shared" / "mine"
    here.mkdir(parents=True)
    here.parent.chmod(0o1777)
    (here / "backupd.toml").write_text(SOURCE)
    config = load_config(None, {}, here)
    assert (config.origin, config.skipped) == (str(here / "backupd.toml"), "")


@needs_root
def test_command_of_planted_file_is_not_run(backupd: Backupd, database: Path, backups: Path, tmp_path: Path) -> None:
    """A compromised app plants a configuration in its volume, where an operator types `backupd drill`."""
    assert backupd("backup").code == 0
    volume, proof = database.parent, tmp_path / "proof"
    program = f"open({str(proof)!r}, 'w')"
    command = shlex.join((sys.executable, "-c", program))
    planted = volume / "backupd.toml"
    planted.write_text(
        f'backups_dir = "{backups}"\n[sources.tasks]\npath = "{database}"\n[drill]\ncommand = """{command}"""\n'
    )
    os.chown(volume, STRANGER, STRANGER)
    os.chown(planted, STRANGER, STRANGER)
    said = Backupd({}, volume)("drill")
    assert (said.code, said.out) == (78, "")
    assert f"{planted} is ignored: its directory {volume} belongs to another user" in said.err
    assert not proof.exists()
    named = Backupd({}, volume)("config", "check", "--config", planted)
    assert named.code == 0, "what the operator names is obeyed, whoever owns it"
    assert f"warning: {planted} is in the directory of the database of tasks, where the app can replace" in named.err


def test_named_file_writable_by_others_is_read_with_warning(tmp_path: Path) -> None:
    """Docker Desktop and SMB show files with mode 0777: refusing them would end the backups of those hosts."""
    file = tmp_path / "config.toml"
    file.write_text(SOURCE)
    assert load_config(file, {}).exposure == ""
    file.chmod(0o666)
    assert load_config(file, {}).exposure == f"{file} can be written by every user (mode 0666)"


# --- Absurd files ---


@pytest.mark.parametrize(
    ("toml", "what"),
    [
        ("a = " + "[" * 5000 + "]" * 5000, "nested more than"),
        ("a = " + "{b = " * 5000 + "1" + "}" * 5000, "nested more than"),
        (".".join("a" * 5000) + " = 1", "nested more than"),
        ("[" + ".".join("a" * 5000) + "]", "nested more than"),
        ("\n".join(f"[{'.'.join('a' * depth)}]" for depth in range(1, 300)), "nested more than"),
        ("a = " + "9" * 5000, "outside of the 64 bits"),
        ("a = " + "9" * 30, "outside of the 64 bits"),
        ("a = -9223372036854775809", "outside of the 64 bits"),
        ("a = 0x" + "f" * 100_000, "outside of the 64 bits"),
        ("[retention]\ndaily = [0x" + "f" * 100_000 + "]", "outside of the 64 bits"),
        ("#" * (1 << 20), "larger than"),
        ("a = [\n" + "1,\n" * 60_000 + "]\n", "a: unknown key"),
        (SOURCE + "[retention]\ndaily = 2147483648", "must be at most 2147483647, not 2147483648"),
        (SOURCE + "[space]\nreserve = 9223372036854775807", "must be at most 1125899906842624, not 9"),
    ],
    ids=range(14),
)
def test_absurd_file_is_refused_in_one_line_and_in_time(toml: str, what: str, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(toml)
    message = refusal(file)
    assert what in message
    assert len(message.splitlines()[0]) < 300


def test_search_for_line_of_long_value_ends_in_time() -> None:
    began = time.process_time()
    assert lines_of("a = [\n" + "1,\n" * 60_000 + "]\nb = 1\n") == {}
    assert time.process_time() - began < AT_ONCE_S
    assert lines_of("a = [\n" + "1,\n" * 500 + "]\nb = 1\n") == {("a",): 1, ("b",): 503}


@pytest.mark.parametrize("value", ["9" * 5000, "9" * 30, "-" + "9" * 400, "1e400", "[" * 5000, "x" * 100_000, "\x1b["])
def test_absurd_value_of_any_key_is_refused_or_accepted_without_traceback(value: str) -> None:
    began = time.process_time()
    for key in all_keys():
        name = f"BACKUPD_{'__'.join(key.path).upper().replace('*', 'X')}"
        message = ""
        try:
            load_config(None, {**DATABASE, name: value}, Path("/"))
        except ConfigError as error:
            message = error.message
        assert all(len(line) < 600 for line in message.splitlines()), name
    assert time.process_time() - began < 4 * AT_ONCE_S


# --- Surprises in the place of a file ---


def pipe(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def gibibyte(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 30)


def directory(path: Path) -> None:
    path.mkdir()


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


SURPRISES = pytest.mark.parametrize(
    ("plant", "why"),
    [
        (pipe, "a pipe, not a regular file"),
        (endless, "a device, not a regular file"),
        (gibibyte, "larger than"),
        (directory, "a directory, not a regular file"),
        (listening, "a socket, not a regular file"),
    ],
)


@SURPRISES
def test_special_file_in_place_of_secret_is_refused(plant: Callable[[Path], None], why: str, tmp_path: Path) -> None:
    plant(tmp_path / "x")
    environ = {**DATABASE, "BACKUPD_HTTP__TOKEN_FILE": str(tmp_path / "x")}
    assert refusal(None, environ) == f"environment BACKUPD_HTTP__TOKEN_FILE: cannot read {tmp_path / 'x'}: {why}" + (
        " 65536 bytes" if plant is gibibyte else ""
    )


@pytest.mark.parametrize(
    "value", ["hunter2-hunter2-hunter2", "hunter2/hunter2+hunter2==", "hunter2\nhunter2", "h" * 2000]
)
def test_secret_in_place_of_its_file_is_refused_without_showing_it(value: str) -> None:
    said = refusal(None, {**DATABASE, "BACKUPD_HTTP__TOKEN_FILE": value})
    assert (value in said, "the secret itself" in said) == (False, True)


def test_missing_file_of_secret_is_named(tmp_path: Path) -> None:
    said = refusal(None, {**DATABASE, "BACKUPD_HTTP__TOKEN_FILE": str(tmp_path / "no" / "token")})
    assert f"cannot read {tmp_path}/no/token: No such file" in said


@SURPRISES
def test_special_file_in_place_of_configuration_is_refused(
    plant: Callable[[Path], None], why: str, tmp_path: Path
) -> None:
    plant(tmp_path / "x")
    assert refusal(tmp_path / "x").startswith(f"cannot read {tmp_path / 'x'}: {why}")


def test_command_with_pipe_in_place_of_secret_ends_at_once(backupd: Backupd, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    said = backupd("config", "check", BACKUPD_HTTP__TOKEN_FILE=str(tmp_path / "pipe"), timeout_s=20)
    assert (said.code, len(said.err.splitlines())) == (78, 2)
    assert "a pipe, not a regular file" in said.err


# --- Values that would leak or mislead ---


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("HTTP__TOKEN", "hunter2", "must have at least 16 characters"),
        ("HTTP__TOKEN", "hunter2hunter2 ", "has whitespace at the beginning or end"),
        ("HTTP__LISTEN", "a host:8080", "must be HOST:PORT"),
        ("HTTP__LISTEN", "http://u:hunter2@host:8080", "must be HOST:PORT"),
        ("REPLICAS__X__URL", "ftp://nas/backups", "has an unsupported scheme"),
        ("REPLICAS__X__URL", "s3cret://nas/backups", "has an unsupported scheme"),
        ("REPLICAS__X__URL", "file:/mnt/../etc", "has '..' in it"),
        ("REPLICAS__X__URL", "file:/mnt/%2e%2e/etc", "has '..' in it"),
        ("REPLICAS__X__URL", "/mnt/../etc", "has '..' in it"),
        ("REPLICAS__X__URL", "sftp://u:hunter2@nas/x", "must not contain a password"),
        ("REPLICAS__X__URL", "sftp://u%3Ahunter2@nas/x", "user name that no account has"),
        ("REPLICAS__X__URL", "sftp://u%0Ahunter2@nas/x", "user name that no account has"),
        ("REPLICAS__X__URL", "u:hunter2@nas/x", "must not contain a password"),
        ("REPLICAS__X__URL", "u:hunter2@nas:/x", "must not contain a password"),
        ("REPLICAS__X__URL", "//u:hunter2@nas/x", "must not contain a password"),
        ("REPLICAS__X__URL", "file://u:hunter2@nas/x", "must not contain a password"),
        ("REPLICAS__X__URL", "/mnt/u:hunter2@nas/x", "must not contain a password"),
        ("REPLICAS__X__KNOWN_HOSTS", "/mnt/u:hunter2@nas/x", "must not contain a password"),
        ("BACKUPS_DIR", "//u:hunter2@nas/x", "must not contain a password"),
        ("DATABASE", "file://u:hunter2@nas/x.db", "must not contain a password"),
        ("DATABASE", "sqlite://u:hunter2@nas/x.db", "must not contain a password"),
        ("DRILL__HEALTH_URL", "http://u:hunter2@app/health", "must not contain a password"),
        ("DRILL__HEALTH_URL", "http://hunter2@app/health", "must not contain a user name"),
        ("DRILL__HEALTH_URL", "ftp://app/health", "must be a URL that begins with http"),
        ("APP__HEALTH_URL", "http://hunter2@[", "must be a URL that begins with http"),
        ("NOTIFY__URLS", "[" * 5000 + '"hunter2"', "must be a JSON list"),
    ],
)
def test_dangerous_value_is_refused_without_being_shown(name: str, value: str, why: str) -> None:
    environ = {**DATABASE, "BACKUPD_DRILL__PLACE_AT": "/drill/tasks.db", f"BACKUPD_{name}": value}
    if name.startswith("REPLICAS__X") and "URL" not in name:
        environ["BACKUPD_REPLICAS__X__URL"] = "sftp://u@nas/x"
    assert why in refusal(None, environ)


def test_token_from_file_has_no_surrounding_whitespace(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(f"{SOURCE}[http]\ntoken = 'hunter2 hunter2 hunter2 '\n")
    assert refusal(file) == f"{file}:4: http.token: must not begin or end with whitespace, which clients do not send"


def test_notification_urls_with_unknown_schemes_are_named_by_check(backupd: Backupd) -> None:
    urls = "tgramm://hunter2:hunter2/1,json://localhost/hunter2,tgram://hunter2"
    said = backupd("config", "check", BACKUPD_NOTIFY__URLS=urls)
    assert (said.code, said.out, "hunter2" in said.err) == (78, "", False)
    first, second, hint = said.err.splitlines()
    assert first.startswith("error: notify.urls: tgramm://[secret]: Apprise cannot use this URL")
    assert second.startswith("notify.urls: tgram://[secret]: Apprise cannot use this URL")
    assert "apprise/wiki" in hint
    assert backupd("config", "check", BACKUPD_NOTIFY__URLS="json://localhost/hunter2").code == 0
