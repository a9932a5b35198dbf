"""The gate's page: what it says in each state, in both languages, without secrets, and with foreign text as text."""

import re
from dataclasses import fields, is_dataclass, replace
from datetime import timedelta
from typing import Any

import pytest

from backupd.gate.model import CapRover, CapRoverWebhook, Deploy, Forgejo, Gate
from backupd.gate.outcome import last_lines, public_url
from backupd.gate.page import BUSY_REFRESH_S, page_response
from backupd.runbook import runbook_address
from backupd.web.localizer import LANGUAGES, Language
from backupd.web.page import REFRESH_S
from support.documents import ROOT
from support.gate_states import (
    NOTES,
    NOW,
    OUTPUT,
    SECRETS,
    STATES,
    TASKS,
    ZONE,
    deployed,
    stopped,
    superseded,
    unhealthy,
)
from support.html_reader import Reader

HOSTILE = (
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "{{ 7 * 7 }}{% raw %}",
    "\x1b]0;owned\x07\r\n\x00",
    "evil\u202egnp.exe",
    "\ud800 lone",
    "`backupd restore evil` `",
    "javascript:alert(1)",
    "x" * 100_000,
)


def html_of(
    deploys: tuple[Deploy, ...], language: Language = "en", gates: tuple[Gate, ...] = (TASKS,), output: str = OUTPUT
) -> str:
    outputs = {one.id: output for one in deploys}
    return page_response(gates, deploys, language, NOW, ZONE, outputs=outputs, name="shop").body.decode()


def text_of(deploys: tuple[Deploy, ...], language: Language = "en", gates: tuple[Gate, ...] = (TASKS,)) -> str:
    return " ".join(Reader(html_of(deploys, language, gates)).text.split())


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("none", ("Ready: waiting for the first push", "Connect Forgejo")),
        ("deployed", ("tasks: v1.1 is in production", "v1.1 deployed commit 10c0ffee10")),
        ("stopped", ("tasks: v1.2 was stopped, production is unchanged", "tests: sh ended with code 1")),
        ("unhealthy", ("tasks: v1.2 did not come up", "after 5 min the app still reports v1.1")),
        ("interrupted", ("the deploy of v1.2 was interrupted", "Check which version the app reports")),
        ("running", ("tasks: v1.3 is being deployed", "v1.3 waiting", "40c0ffee40 running", "for 2 min")),
    ],
)
def test_each_state_has_heading_and_reason(state: str, words: tuple[str, ...]) -> None:
    text = text_of(STATES[state])
    assert [one for one in words if one not in text] == []


def test_deploy_shows_who_when_how_long_and_each_step() -> None:
    text = text_of((deployed(),))
    assert "pushed by ada to refs/tags/v1.1, 2026-11-24 09:00:30 · took 3 min · before it: v1.0" in text
    assert "backup 2026-11-24 09:00 · 4 s tasks-20261124-1200, verified" in text
    assert "app health 2026-11-24 09:01 · 111 s it reports v1.1" in text
    assert "Backup kept for it: tasks-20261124-1200" in text
    assert 'href="https://git.example.com/ada/tasks/commit/10c0ffee' in html_of((deployed(),))


def test_unhealthy_deploy_says_how_to_go_back_in_order_of_runbook() -> None:
    text = text_of(STATES["unhealthy"])
    back = text[text.index("How to go back Runbook") :]
    steps = [
        "In CapRover, tasks → App Configs: Instance Count 0",
        "Version History: roll back to v1.1 (commit 10c0ffee10)",
        "If v1.2 changed the data, in the container of backupd beside the app: backupd restore tasks-20261124-1200",
        "Instance Count 1",
    ]
    assert sorted(steps, key=back.index) == steps
    runbook = (ROOT / "docs" / "runbook.md").read_text()
    section = runbook[runbook.index('<a id="deploy">') :]
    same = ["**Stop the app**", "**Put the old version in place**", "**Restore the data", "**Start it**"]
    assert sorted(same, key=section.index) == same
    assert f'href="{runbook_address("deploy")}"' in html_of(STATES["unhealthy"])
    assert "How to go back" not in text_of(STATES["stopped"]), "production is as it was"


def test_way_back_without_backup_or_known_version_still_says_what_to_do() -> None:
    alone = replace(unhealthy(), generations=("tasks; rm -rf /",), version_before=None)
    text = text_of((alone,), gates=(replace(TASKS, target=NOTES.target),))
    assert "In CapRover, the app → App Configs: Instance Count 0" in text
    assert "the app → Deployment → Version History: roll back to the version before" in text
    assert "No backup was taken for this deploy: if v1.2 changed the data, find an earlier one" in text
    assert "backupd restore tasks;" not in text


def test_output_of_tests_is_folded_and_without_colours() -> None:
    page = Reader(html_of((stopped(),)))
    assert page.tags.count("pre") == 1
    assert "✓ saves a task\n✗ moves the column\n    expected 3, got 2\n" in page.text
    assert "End of the tests' output" not in Reader(html_of((stopped(),), output="\n")).text
    assert Reader(html_of((stopped(), deployed()))).tags.count("pre") == 1, "not of one that passed before"
    assert Reader(html_of((deployed(),))).tags.count("pre") == 1, "of the newest in any case"


def test_last_lines_are_bounded_in_number_and_length() -> None:
    lines = last_lines("".join(f"{number} {'x' * 5_000}\n" for number in range(1_000)))
    assert len(lines) <= 200
    assert lines[-1].startswith("999 x")
    assert max(map(len, lines)) <= 500
    assert last_lines("\n".join(map(str, range(500)))) == tuple(map(str, range(300, 500)))


def test_first_push_is_awaited_with_steps_to_connect_webhook() -> None:
    text = text_of((), gates=(TASKS, NOTES))
    for words in (
        "in ada/tasks: Settings → Webhooks → Add webhook",
        "http://GATE:8080/hooks/tasks",
        "content type application/json",
        "secret under [gate.tasks]",
        "ALLOWED_HOST_LIST = external, GATE",
        "Push to refs/heads/main, refs/tags/v*",
        "http://GATE:8080/hooks/notes",
    ):
        assert words in text
    assert "Connect Forgejo" not in text_of((deployed(),))


def test_settings_are_shown_and_what_is_missing_is_said() -> None:
    text = text_of(())
    for words in (
        "tasks of http://srv-captain--tasks-backup:8080",
        "ci / *, within 60 min",
        "sh -c 'npm ci && npm test', as user 64000, within 15 min, with a fresh copy of the data",
        "the tested files to tasks at https://captain.example.com",
        "https://tasks.example.com/health, version in version, within 5 min",
    ):
        assert words in text
    bare = text_of((), gates=(NOTES,))
    for words in ("deploys have no backup", "nothing is tested", "builds the head of its branch", "counts as deployed"):
        assert words in bare


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("state", STATES)
def test_no_secret_is_on_page(state: str, language: Language) -> None:
    html = html_of(STATES[state], language, (TASKS, NOTES))
    assert [secret for secret in SECRETS if secret in html] == []


def test_user_and_password_in_address_are_left_out() -> None:
    assert public_url("https://ada:secret@[::1]:8443/a/?token=secret#secret") == "https://[::1]:8443/a"
    assert public_url("http://host:99999999/") == public_url("http://[") == public_url("javascript:x") == ""


@pytest.mark.parametrize("state", STATES)
def test_spanish_page_has_no_english_beside_quotes(state: str) -> None:
    html = html_of(STATES[state], "es", (TASKS, NOTES))
    quoted = re.compile(r"<(q|pre|code|style)\b.*?</\1>|Instance Count", re.DOTALL)
    text = Reader(quoted.sub("", html)).text.replace("Version History", "").replace("App Configs", "")
    english = r"\b(?:the|and|or|with|is|of|from|by|deploys?|tests?|backups?|waiting|running)\b"
    assert re.findall(english, re.sub(r"https?://\S+", "", text)) == []


def test_page_is_in_spanish() -> None:
    text = text_of(STATES["unhealthy"], "es", (TASKS, NOTES))
    for words in (
        "tasks: v1.2 no arrancó bien",
        "Cómo volver atrás",
        "Version History: vuelva a v1.1",
        "push de ada a refs/tags/v1.2",
        "salud de la aplicación 2026-11-25 08:42",
        "Añadir webhook",
    ):
        assert words in text


def test_headers_forbid_everything_and_page_refreshes_sooner_while_deploying() -> None:
    idle, busy = (page_response((TASKS,), STATES[state], "es", NOW, ZONE) for state in ("deployed", "running"))
    assert "default-src 'none'" in idle.headers["Content-Security-Policy"]
    assert idle.headers["Content-Language"] == "es"
    assert (idle.headers["Refresh"], busy.headers["Refresh"]) == (str(REFRESH_S), str(BUSY_REFRESH_S))
    assert "Refresh" not in page_response((TASKS,), (), "en", NOW, ZONE, refreshing=False).headers


def hostile(value: Any, text: str, name: str = "") -> Any:
    """Return `value` with `text` wherever a text of others can stand."""
    if is_dataclass(value) and not isinstance(value, type):
        keep = {"state", "id", "gate", "name", "url", "health_url"}
        changes = {f.name: hostile(getattr(value, f.name), text, f.name) for f in fields(value) if f.name not in keep}
        return replace(value, **changes)
    if isinstance(value, tuple):
        return tuple(hostile(item, text, name) for item in value)
    return text if isinstance(value, str) else value


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text)[:20])
def test_hostile_text_is_shown_as_text(text: str) -> None:
    deploys = tuple(hostile(one, text) for one in STATES["unhealthy"] + STATES["running"])
    page = Reader(html_of(deploys, "en", (hostile(TASKS, text), hostile(NOTES, text)), output=f"{text}\n" * 300))
    assert not {"script", "img", "iframe", "form", "button", "input"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on") or name == "style"]
    links = [value or "" for name, value in page.attributes if name == "href"]
    assert not [link for link in links if not re.match(r"https?://|\?refresh=off|api/deploys|data:image", link)]
    assert not [char for char in page.text if not char.isprintable() and char != "\n"]
    assert len(page.text) < 600_000


def test_commit_is_link_only_where_forgejo_is_known_and_commit_is_one() -> None:
    strange = replace(deployed(), push=replace(deployed().push, commit="../../settings"))
    assert "/commit/" not in html_of((strange,))
    assert "/commit/" not in html_of((deployed(),), gates=(replace(TASKS, forgejo=None),))
    odd = replace(TASKS, forgejo=Forgejo("javascript:alert(1)", "ada/tasks"))
    assert "/ada/tasks" not in html_of((deployed(),), gates=(odd,))


def test_many_deploys_and_gates_keep_page_short() -> None:
    many = tuple(replace(deployed(at=NOW - timedelta(hours=n)), id=f"n{n}") for n in range(1, 60))
    gates = tuple(replace(TASKS, name=f"app{n}") for n in range(23))
    page = Reader(html_of((*many, *(replace(one, gate="app3") for one in many)), gates=gates))
    assert page.text.count("pushed by ada") == 20
    assert "39 earlier ones, in /api/deploys only" in page.text
    assert "in /api/deploys only: app20, app21, app22" in page.text


def test_worst_of_several_gates_comes_first_and_superseded_deploy_decides_nothing() -> None:
    notes = replace(NOTES, target=CapRover("https://captain.example.com", "notes", SECRETS[4]))
    failed = replace(stopped(), gate="notes", id="n1")
    text = text_of((unhealthy(), failed), gates=(notes, TASKS))
    assert "tasks: v1.2 did not come up · 1 more below" in text
    assert text.index("tasks: v1.2 did not come up.") < text.index("notes: v1.2 was stopped, production is unchanged.")
    assert "v1.1 is in production" in text_of((superseded(), deployed()))
    well = (deployed(), replace(deployed(), gate="notes", id="n2"))
    assert "The last deploy of every app succeeded" in text_of(well, gates=(notes, TASKS))
    assert isinstance(NOTES.target, CapRoverWebhook)
