"""What the page tells an operator at night: which backupd it is, what failed, commands, links and values."""

import re
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from page_reader import shown

from backupd.cli.restore import restore_command
from backupd.formatting import human_bytes, human_duration
from backupd.health import Failure, Freshness, Health, HealthFacts
from backupd.problems import Problem, ProblemKind
from backupd.status.history import NOT_CONFIGURED
from backupd.status.model import Instance
from backupd.web.drawings import MOST_SPOTS
from backupd.web.localizer import Language, Localizer
from backupd.web.page import REFRESH_S
from backupd.web.page_view import restore_commands
from backupd.web.verdict import headline, to_dos
from support.page_states import INSTANCE, NOW, STATES, ZONE, failing, first_day, healthy
from support.web_site import FakeService, WebSite, serving


def test_title_and_heading_name_instance(site: WebSite) -> None:
    history = replace(healthy(), instance=Instance("shop <3>"))
    site.service.known_history = history
    page = site.ask("/").text
    assert "<title>shop &lt;3&gt;: Everything is up to date</title>" in page
    assert re.search(r"<h1>.*shop &lt;3&gt;.*</h1>", page)
    assert site.ask("/api/status").json["instance"] == "shop <3>"


def test_error_for_everyone_names_no_instance() -> None:
    with serving(token="x" * 16) as guarded:
        refused = guarded.ask("/", Accept="text/html")
    assert refused.status == 401
    assert INSTANCE.name not in refused.text
    assert "0a1b2c3d4e5f" not in refused.text


@pytest.mark.parametrize("language", ["en", "es"])
@pytest.mark.parametrize("kind", ["missing", "unusable", "damaged", "unreadable", "shrunk"])
def test_lost_set_of_files_is_no_database(kind: ProblemKind, language: Language) -> None:
    problem = Problem(kind, "unhealthy", "backup", "uploads", NOW, restore="backupd restore …", of_files=True)
    history = healthy()
    health = replace(history.status.health, problems=(problem,))
    history = replace(history, status=replace(history.status, health=health))
    localizer = Localizer(language, ZONE)
    (to_do,) = to_dos(history, localizer)
    said = f"{headline(history, localizer)} {to_do.what} {to_do.advice}"
    assert said.count({"en": "directory of uploads", "es": "directorio de uploads"}[language]) == 2
    assert re.findall(r"database|\bbase\b|restaurarla", said) == []


def test_page_refreshes_until_it_is_stopped(site: WebSite) -> None:
    site.service.known_history = healthy()
    page, stopped = site.ask("/"), site.ask("/?refresh=off")
    assert int(page.headers["refresh"]) == REFRESH_S
    assert 'refreshes every 2 min: <a href="?refresh=off">stop</a>' in page.text
    assert "refresh" not in stopped.headers
    assert 'does not refresh: <a href="./">start</a>' in stopped.text
    assert "refresh" not in site.ask("/api/status").headers


def test_page_of_temporary_error_refreshes() -> None:
    with serving(FakeService(error=ValueError())) as broken, serving(token="x" * 16) as guarded:
        assert broken.ask("/", Accept="text/html").headers["refresh"] == str(REFRESH_S)
        assert "refresh" not in guarded.ask("/", Accept="text/html").headers


def test_each_generation_has_command_for_each_store_that_has_it() -> None:
    generation = healthy().histories[0].generations[3]
    assert generation.stores == ("local", "offsite")
    run = f"docker exec 0a1b2c3d4e5f backupd restore {generation.id}"
    assert restore_commands(generation, "docker exec 0a1b2c3d4e5f ") == (run, f"{run} --from offsite")
    damaged = replace(generation, verification="corrupt")
    assert restore_commands(damaged, "") == (f"backupd restore {generation.id} --from offsite",)
    foreign = replace(generation, stores=("local",), kept_for=(NOT_CONFIGURED,))
    assert restore_commands(foreign, "") == (f"backupd restore {generation.id} --to NEW_FILE",)


def test_commands_of_page_are_accepted_by_command_line(site: WebSite) -> None:
    seen = set[str]()
    for state in STATES.values():
        site.service.known_history = replace(state(), instance=Instance())
        seen |= set(re.findall(r"<code[^>]*>backupd restore ([^<]*)</code>", site.ask("/").text))
    assert len(seen) > len(STATES)
    for words in seen:
        restore_command.make_context("restore", words.split())


def test_each_problem_links_to_runbook_section_in_language_of_page(site: WebSite) -> None:
    history = replace(failing(), instance=Instance(docs_url="https://wiki.example/b"))
    for language, name in (("en", "runbook.md"), ("es", "runbook.es.md")):
        site.service.known_history = history
        page = site.ask("/", Accept_Language=language).text
        for topic in ("source-unusable", "backup-too-old", "never-succeeded", "restore"):
            assert f'<a href="https://wiki.example/b/{name}#{topic}" rel="noreferrer"' in page
    facts = site.ask("/api/status").json
    assert facts["problems"][0]["runbook"] == "https://wiki.example/b/runbook.md#source-unusable"


@pytest.mark.parametrize(
    ("at", "since", "runs", "words"),
    [
        ("2026-11-25T04:05", "2026-11-25T04:00", 1, "Tonight's backup of tasks failed"),
        ("2026-11-25T00:30", "2026-11-24T23:30", 1, "Tonight's backup of tasks failed"),
        ("2026-11-25T09:00", "2026-11-25T04:00", 4, "Last night's backup of tasks failed"),
        ("2026-11-25T15:00", "2026-11-25T14:00", 1, "The last backup of tasks failed"),
        ("2026-11-27T09:00", "2026-11-25T04:00", 20, "The last 20 backups of tasks failed"),
    ],
)
def test_failed_backup_is_named_by_night_or_count(at: str, since: str, runs: int, words: str) -> None:
    now, failed_at = (datetime.fromisoformat(moment).replace(tzinfo=ZONE) for moment in (at, since))
    history = healthy()
    fresh = (Freshness("backup", "tasks", now - timedelta(hours=2), 93_600),)
    health = Health.of(HealthFacts(fresh, failures=(Failure("backup", "tasks", "busy", failed_at, runs),)), now)
    history = replace(history, status=replace(history.status, health=health, taken_at=now))
    assert headline(history, Localizer("en", ZONE)) == words


def test_first_day_shows_next_tasks_and_times(site: WebSite) -> None:
    history = first_day()
    page = shown(site, history)
    assert "never" not in page.text
    assert "within minutes" in page.text
    assert "No backup yet. The first one starts within minutes. After it, days, sizes and" in page.text
    assert "offsite: The first one starts within minutes." in page.text
    later = tuple(replace(run, at=NOW + timedelta(hours=3), overdue=False) for run in history.status.next_runs)
    page = shown(site, replace(history, status=replace(history.status, next_runs=later)))
    assert "The first backup starts at 2026-11-25 12:00" in page.text
    assert "No backup yet. The first one starts at 2026-11-25 12:00." in page.text


def test_charts_have_values_at_their_points(site: WebSite) -> None:
    history = healthy()
    site.service.known_history = history
    page = site.ask("/").text
    last = history.histories[0].points[-1]
    words = (
        f"{last.date}: database {human_bytes(last.snapshot_bytes or 0)}, archive {human_bytes(last.archive_bytes or 0)}"
    )
    assert f'tabindex="0" role="img"><title>{words}</title>' in page
    slowest = max(history.histories[0].points, key=lambda point: point.duration_s or 0)
    assert f"<title>{slowest.date}: {human_duration(slowest.duration_s or 0)}</title>" in page
    assert page.count('class="spot"') <= 2 * len(history.histories) * (MOST_SPOTS + 2)
