"""The page and /api/status as the real server sends them: states, languages, headers, and foreign text."""

import json
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from datetime import datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, get_args
from zoneinfo import ZoneInfo

import pytest
from jsonschema import Draft202012Validator, FormatChecker

from backupd.catalog import CatalogUnavailable, PingRecord
from backupd.cli.restore import restore_command
from backupd.errors import ErrorKind
from backupd.formatting import human_bytes, human_duration
from backupd.health import Failure, Freshness, Health, HealthFacts
from backupd.model import Hold, Task
from backupd.runbook import runbook_address
from backupd.status.calendar import Day
from backupd.status.history import NOT_CONFIGURED
from backupd.status.model import History, Instance, LogEntry, MessageFigures
from backupd.web.drawings import MOST_SPOTS
from backupd.web.localizer import Localizer
from backupd.web.page import REFRESH_S, page_response
from backupd.web.page_view import restore_commands
from backupd.web.responses import status_facts
from backupd.web.verdict import headline, to_dos
from support.page_states import INSTANCE, NOW, STATES, ZONE, degraded, failing, first_day, healthy
from support.web_site import FakeService, WebSite, serving

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "status.schema.json").read_text())
VOID = {"meta", "link", "br"}
HOSTILE = (
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "{{ 7 * 7 }}{% raw %}",
    "\x1b]0;owned\x07\r\n\x00",
    "evil\u202egnp.exe",
    "\ud800 lone",
    "`code` `",
    "x" * 100_000,
)


class Reader(HTMLParser):
    """Reads a page, and makes sure that its elements nest."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text, self.tags, self.attributes, self._open = "", list[str](), list[tuple[str, str | None]](), list[str]()
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self._open.append(tag)
        self.text += " " if tag in ("br", "dd") else ""

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.text += data


@pytest.fixture(scope="module")
def site() -> Iterator[WebSite]:
    with serving() as site:
        yield site


def shown(site: WebSite, history: History, language: str = "en") -> Reader:
    site.service.known_history = history
    reply = site.ask("/", Accept_Language=language)
    assert (reply.status, reply.headers["content-type"]) == (200, "text/html; charset=utf-8")
    return Reader(reply.text)


@pytest.mark.parametrize(
    ("state", "heading", "step"),
    [
        ("healthy", "Everything is up to date", "Nothing to do."),
        ("degraded", "The last copy to offsite failed · 1 more below", "tasks-20261101-0700 is damaged"),
        (
            "failing",
            "The database of tasks is missing · 2 more below",
            "check [sources.tasks] path and the volume mount",
        ),
        ("empty", "No copy is left to restore", "makes one now, or shows why it fails"),
        ("first-day", "The first backup starts within two minutes", "Nothing to do: it starts by itself"),
    ],
)
def test_each_state_shows_heading_and_next_step(site: WebSite, state: str, heading: str, step: str) -> None:
    history = STATES[state]()
    assert history.stage == state
    page = shown(site, history)
    assert heading in page.text
    assert step in page.text


def test_page_shows_ages_limits_generations_drill_disk_and_log(site: WebSite) -> None:
    text = " ".join(shown(site, healthy()).text.split())
    for words in (
        "as of 2026-11-25 09:00:30 (America/Santiago)",
        "5 h ago within limit at most 26 h last 2026-11-25 04:00 next 2026-11-26 04:00",
        "3 d ago within limit at most 8 d",
        "24 d ago within limit at most 34 d",
        "verified 317 degraded 5 failed 4 missed 4",
        "2026-11-15 04:00 · verified Restore docker exec 0a1b2c3d4e5f backupd restore tasks-20261115-0700 docker exec",
        "restore tasks-20261115-0700 --from offsite 39.5 MiB 112.9 MiB week 2026-W46 local, offsite",
        "restored in 24 s tasks from offsite, 2026-11-01 09:00 fetch 18 s",
        "backups 1.4 GiB other files 16.8 GiB free 20.8 GiB",
        "offsite: 19 generations, last sent 2026-11-22 09:00",
        "2026-11-25 04:00:02 WARNING waiting for a prune",
    ):
        assert words in text


def test_problems_are_in_spanish_and_log_text_is_quoted(site: WebSite) -> None:
    text = " ".join(shown(site, failing(), "es-CL,es;q=0.9").text.split())
    assert (
        "La última copia verificada de tasks es de hace 3 d; el plazo es de 26 h. docker exec 0a1b2c3d4e5f backupd"
        in text
    )
    assert "Falta la base tasks: no se puede hacer ninguna copia. no database at /app/data/tasks.db. Compruebe" in text
    assert "pare la aplicación: docker exec 0a1b2c3d4e5f backupd restore latest --source tasks. " in text
    assert "nuevo intento 2026-11-25 09:42" in text
    assert "día 2026-11-23 semana 2026-W48" in text


def test_undelivered_message_or_ping_is_warning_until_delivered(site: WebSite) -> None:
    well = healthy()
    ping = PingRecord("backup", "<i>tasks", 3, 1, NOW - timedelta(hours=1), NOW, "it answered 404\u202e")
    status = replace(well.status, messages=MessageFigures(2, NOW, NOW), pings=(ping,))
    text = " ".join(shown(site, replace(well, status=status)).text.split())
    assert "Up to date, with warnings" in text
    assert "Messages that wait for delivery: 2. docker exec 0a1b2c3d4e5f backupd notify shows the error" in text
    assert "The last ping of a monitor failed: backup, <i>tasks. it answered 404\\u202e" in text
    facts = site.ask("/api/status").json
    Draft202012Validator(SCHEMA, format_checker=FormatChecker()).validate(facts)
    assert (facts["messages"]["waiting"], facts["pings"][0]["reason"]) == (2, ping.reason)
    again = replace(status, messages=MessageFigures(1, NOW, None), pings=(replace(ping, accepted_at=NOW),))
    assert replace(well, status=again).stage == "healthy"


@pytest.mark.parametrize("task", get_args(Task))
def test_each_problem_has_hint_in_both_languages(site: WebSite, task: Task) -> None:
    kinds = {f"{kind}-kind": kind for kind in get_args(ErrorKind)}
    facts = HealthFacts(
        (
            Freshness("backup", "never", None, 60),
            Freshness("replicate", "late", NOW - timedelta(days=2), 60),
            Freshness("drill", "ahead", NOW + timedelta(days=2), 60),
        ),
        (Hold("broken", "corrupt", NOW, "", None), Hold("small", "shrink", NOW, "", None)),
        tuple(Failure(task, subject, kind, NOW - timedelta(hours=7)) for subject, kind in kinds.items()),
        (("rotten-20261101-0700", "rotten"),),
    )
    history = failing()
    history = replace(history, status=replace(history.status, health=Health.of(facts, NOW)))
    for language in ("en", "es"):
        page = shown(site, history, language)
        told = ("never", "late", "ahead", "broken", "small", "rotten", "--unfreeze", "NTP", *kinds)
        assert [word for word in told if word not in page.text] == []
        advised = [one.advice for one in to_dos(history, Localizer(language, ZoneInfo("UTC")))]
        assert all(advised), "each has a next step"


def test_unusable_catalog_is_reported_once(site: WebSite) -> None:
    blind = Health.of(HealthFacts((), catalog_error=CatalogUnavailable("it is away", "look")), NOW)
    history = replace(healthy(), status=replace(healthy().status, health=blind))
    assert shown(site, history).text.count("The catalog cannot be used") == 1
    assert shown(site, replace(history, unread=("catalog",))).text.count("The catalog cannot be used") == 1


def test_unreadable_data_is_reported_without_error(site: WebSite) -> None:
    blind = Health.of(HealthFacts((Freshness("backup", "tasks", None, 60),), store_unreadable=True), NOW)
    history = first_day()
    history = replace(
        history,
        status=replace(history.status, health=blind, sources=(), free_bytes={}),
        disk=None,
        unread=("store", "catalog", "log"),
    )
    assert history.stage == "failing"
    text = shown(site, history).text
    assert "The directory of the backups cannot be read" in text
    assert "backupd catalog rebuild" in text
    assert "backup.log cannot be read" in text
    assert "There is no verified backup" not in text, "nobody looked"


def test_failed_last_day_is_warning_beside_fresh_backups() -> None:
    history = healthy()
    source_history = replace(
        history.histories[0], days=(*history.histories[0].days[:-1], Day(NOW.date(), "degraded", 1))
    )
    warned = replace(history, histories=(source_history,))
    assert warned.stage == "degraded"
    assert b"Not all backups of tasks succeeded on its last day" in page_response(warned, "en").body


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text)[:20])
def test_hostile_text_is_shown_as_text(site: WebSite, text: str) -> None:
    history = hostile(text)
    page = shown(site, history)
    assert not {"script", "img", "iframe", "form", "button", "input"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on") or name == "style"]
    assert not [char for char in page.text if not char.isprintable() and char != "\n"]
    assert len(page.text) < 300_000
    api = site.ask("/api/status")
    assert api.status == 200
    assert text in [line["message"] for line in api.json["log"]]


@pytest.mark.parametrize(
    "time", ["9999-12-31T23:59:59-12:00", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59+00:00"]
)
def test_time_outside_calendar_breaks_no_page(time: str) -> None:
    history = replace(healthy(), log=(LogEntry(datetime.fromisoformat(time), "INFO", "made up"),))
    for zone in ("Pacific/Kiritimati", "Pacific/Pago_Pago"):
        assert b"made up" in page_response(replace(history, timezone=zone), "en").body


def hostile(text: str) -> History:
    """Put `text` wherever a text of others can stand."""

    def spoilt(value: Any, name: str = "") -> Any:
        if is_dataclass(value) and not isinstance(value, type):
            keep = {"task", "kind", "state", "verification", "timezone", "taken_at", "outcome", "level"}
            keep |= {"docs_url", "exec_prefix"}  # of the operator and of the machine
            changes = {f.name: spoilt(getattr(value, f.name), f.name) for f in fields(value) if f.name not in keep}
            return replace(value, **changes)
        if isinstance(value, tuple):
            return tuple(spoilt(item, name) for item in value)
        return text if isinstance(value, str) else value

    base = degraded()
    source_history = replace(
        base.histories[0], generations=base.histories[0].generations[:3], days=base.histories[0].days[:30]
    )
    history = replace(base, histories=(source_history,), log=(LogEntry(None, "", ""),))
    spoilt_history: History = spoilt(history)
    return spoilt_history


def test_many_sources_and_failed_days_keep_page_short(site: WebSite) -> None:
    history = healthy()
    bad = tuple(replace(day, state="failed") for day in history.histories[0].days)
    many = tuple(replace(history.histories[0], source=f"db{n}", days=bad) for n in range(23))
    page = shown(site, replace(history, histories=many))
    assert "Days not verified: 367" in page.text
    assert "and 327 earlier ones" in page.text
    assert "db19" in page.text
    assert "/api/status only: db20, db21, db22" in page.text
    assert "11 more: " not in page.text
    longer = replace(history.histories[0], generation_count=21)
    assert "11 more: docker exec 0a1b2c3d4e5f backupd list" in shown(site, replace(history, histories=(longer,))).text


def test_many_generations_are_folded(site: WebSite) -> None:
    history = healthy()
    source_history = replace(history.histories[0], generations=history.histories[0].generations * 3)
    page = shown(site, replace(history, histories=(source_history,)))
    assert page.tags.count("table") == 2
    assert "+ 16" in page.text


def test_page_loads_and_allows_no_external_content(site: WebSite) -> None:
    site.service.known_history = healthy()
    reply = site.ask("/")
    policy = reply.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert "http" not in policy
    page = Reader(reply.text)
    assert not [value for name, value in page.attributes if name == "src"]
    links = re.findall(r'<a [^>]*href="([^"]*)"', reply.text)
    icon, *others = [value for name, value in page.attributes if name == "href"]
    assert str(icon).startswith("data:image/svg+xml,")
    assert others == links, "what is not the icon is followed by people alone"
    skip = {"#generations-1", "#generations-2"}
    assert set(links) == {"?refresh=off", "api/status", runbook_address("restore"), *skip}
    without_links = reply.text.replace("%3A", ":").replace(runbook_address("restore"), "")
    assert not re.search(r"url\(|@import|http://(?!www\.w3\.org)|https://", without_links)


@pytest.mark.parametrize(("asked", "language"), [("es", "es"), ("en", "en"), ("de", "en")])
def test_page_declares_its_language(site: WebSite, asked: str, language: str) -> None:
    reply = site.ask("/", Accept_Language=asked)
    assert reply.headers["content-language"] == language
    assert reply.headers["vary"] == "Accept-Language"
    assert f'<html lang="{language}">' in reply.text


def test_all_languages_use_one_history() -> None:
    with serving(cache_s=60) as site:
        for language in ("en", "es", "en", "es"):
            assert f'lang="{language}"' in site.ask("/", Accept_Language=language).text
        assert site.service.calls == ["history"]


def test_hanging_disk_is_reported() -> None:
    with serving(FakeService(hanging=frozenset({"history"})), timeout_s=0.2) as site:
        page, api = site.ask("/", Accept_Language="es"), site.ask("/api/status")
    assert (page.status, api.status) == (503, 503)
    assert "El disco no responde" in Reader(page.text).text
    assert api.json == {"answered": False, "reasons": ["no answer within 0.2 s"]}
    assert page.headers["content-security-policy"].startswith("default-src 'none'; style-src 'sha256-")


@pytest.mark.parametrize("state", STATES)
def test_json_matches_schema(site: WebSite, state: str) -> None:
    site.service.known_history = STATES[state]()
    reply = site.ask("/api/status")
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    Draft202012Validator(SCHEMA, format_checker=FormatChecker()).validate(reply.json)
    assert reply.json["state"] == state
    assert reply.json["healthy"] is (state in ("healthy", "degraded"))


def test_every_field_of_schema_is_explained_and_no_other_is_allowed() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    for schema in schemas(SCHEMA):
        assert schema["description"].endswith("."), schema
        if "properties" in schema:
            assert schema["additionalProperties"] is False
            assert set(schema["required"]) == set(schema["properties"])


def schemas(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield schema
    inner = [*schema.get("properties", {}).values(), schema.get("items"), schema.get("additionalProperties")]
    for one in inner:
        if isinstance(one, dict):
            yield from schemas(one)


def test_json_has_figures_of_page() -> None:
    facts = status_facts(degraded())
    assert facts["warnings"] == (
        "the replication to offsite failed: the replica cannot be reached",
        "generation tasks-20261101-0700 is damaged and no longer counts",
    )
    assert facts["problems"][0]["detail"] == "nas.example:22 does not answer: timed out"
    assert facts["tasks"][2]["hint"] == "check the address, the firewall and whether it is up"
    source = facts["sources"][0]
    assert (source["source"], source["generation_count"], source["frozen"]) == ("tasks", 10, False)
    assert {day["state"] for day in source["days"]} == {"verified", "degraded", "failed", "missed"}
    assert facts["drills"][0]["duration_s"] == 23.6


def test_non_finite_number_is_null_in_json(site: WebSite) -> None:
    history = healthy()
    drill = replace(history.drills[0], duration_s=float("inf"), stages={"fetch": float("nan")})
    site.service.known_history = replace(history, drills=(drill,))
    facts = site.ask("/api/status").json["drills"][0]
    assert (facts["duration_s"], facts["stages"]) == (None, {"fetch": None})
    assert site.ask("/").status == 200


# --- Which backupd it is, and what to do at 3 a.m. ---


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


def test_page_refreshes_until_it_is_stopped(site: WebSite) -> None:
    site.service.known_history = healthy()
    page, stopped = site.ask("/"), site.ask("/?refresh=off")
    assert int(page.headers["refresh"]) == REFRESH_S
    assert 'refreshes every 2 min: <a href="?refresh=off">stop</a>' in page.text
    assert "refresh" not in stopped.headers
    assert 'does not refresh: <a href="./">start</a>' in stopped.text
    assert "refresh" not in site.ask("/api/status").headers


def test_errors_that_pass_by_themselves_refresh() -> None:
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


def test_each_problem_links_to_its_passage_in_own_language(site: WebSite) -> None:
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
def test_failed_backup_is_named_as_operators_do(at: str, since: str, runs: int, words: str) -> None:
    now, failed_at = (datetime.fromisoformat(moment).replace(tzinfo=ZONE) for moment in (at, since))
    history = healthy()
    fresh = (Freshness("backup", "tasks", now - timedelta(hours=2), 93_600),)
    health = Health.of(HealthFacts(fresh, failures=(Failure("backup", "tasks", "busy", failed_at, runs),)), now)
    history = replace(history, status=replace(history.status, health=health, taken_at=now))
    assert headline(history, Localizer("en", ZONE)) == words


def test_first_day_says_what_comes_next_and_when(site: WebSite) -> None:
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
    assert f'tabindex="0" role="img" aria-label="{words}"><title>{words}</title>' in page
    slowest = max(history.histories[0].points, key=lambda point: point.duration_s or 0)
    assert f"<title>{slowest.date}: {human_duration(slowest.duration_s or 0)}</title>" in page
    assert page.count('class="spot"') <= 2 * len(history.histories) * (MOST_SPOTS + 2)
