"""The app is asked for its health, and its version is found in each configured place."""

import json
from pathlib import Path

import pytest

from backupd.notifications.deploy import App, AppVersion, check_app
from support.command import Backupd
from support.daemon import free_port
from support.recording_server import CannedResponse, recording_server


@pytest.mark.parametrize(
    ("said", "version", "error"),
    [
        (CannedResponse(body=b'{"version": "1.4.2"}'), "1.4.2", ""),
        (CannedResponse(body=b'{"version": 7}'), "7", ""),
        (CannedResponse(body=b'{"version": null}'), None, ""),
        (CannedResponse(body=b'{"version": ["1"]}'), None, ""),
        (CannedResponse(body=b"[" * 60_000), None, ""),
        (CannedResponse(body=b'"version"'), None, ""),
        (CannedResponse(body=b"\xff\xfe"), None, ""),
        (CannedResponse(503, b'{"version": "1.5"}'), "1.5", 'its health_url answered 503: {"version": "1.5"}'),
        (CannedResponse(302, headers={"Location": "/login"}), None, "its health_url answered 302: OK"),
        (CannedResponse(204, b""), None, "its health_url answered 204"),
        (CannedResponse(body=json.dumps({"version": "1\x1b[2J" + "x" * 500}).encode()), "1\\x1b[2J" + "x" * 92, ""),
    ],
)
def test_health_and_version_come_from_the_reply(said: CannedResponse, version: str | None, error: str) -> None:
    with recording_server(said) as there:
        assert check_app(App(there.url("/health"))) == AppVersion("app", version, error)


def test_key_in_the_url_is_not_quoted() -> None:
    with recording_server(lambda asked: CannedResponse(403, f"no {asked.target} for you".encode())) as there:
        found = check_app(App(there.url("/health?key=hunter2")))
        assert found.error == "its health_url answered 403: no /health?key=[secret] for you"


def test_version_comes_from_setting_then_file_then_header_then_field(tmp_path: Path) -> None:
    file = tmp_path / "VERSION"
    file.write_text("from file\nmore\n")
    said = CannedResponse(body=b'{"version": "from field"}', headers={"X-App-Version": "from header"})
    with recording_server(said) as there:
        url, header = there.url(), "x-app-version"
        assert check_app(App(url, "set", file, header)).version == "set"
        assert check_app(App(url, None, file, header)).version == "from file"
        assert check_app(App(url, None, tmp_path / "none", header)).version == "from header"
        assert check_app(App(url, None, None, "X-Other")).version == "from field"


def test_app_that_is_down_has_the_version_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "VERSION"
    file.write_text("2.0\n")
    found = check_app(App(f"http://127.0.0.1:{free_port()}/", version_file=file))
    assert found == AppVersion("app", "2.0", "its health_url: Connection refused")


def test_doctor_reports_app_without_version(backupd: Backupd) -> None:
    with recording_server(CannedResponse(body=b'{"version": "1.4.2"}')) as there:
        url = {"BACKUPD_APP__HEALTH_URL": there.url("/health")}
        assert "ok     app: it is healthy, version 1.4.2" in backupd("doctor", **url).out
        found = backupd("doctor", **url, BACKUPD_APP__VERSION_FIELD="build")
        assert (found.code, "app: it is healthy but reports no version" in found.out) == (1, True)
        there.answering = lambda _asked: CannedResponse(404, b"not here")
        assert "wrong  app: its health_url answered 404: not here" in backupd("doctor", **url).out
