"""The page and /api/status as the real server sends them: states, languages, headers, and foreign text."""

import re
from dataclasses import fields, is_dataclass, replace
from datetime import datetime, timedelta
from typing import Any, get_args
from zoneinfo import ZoneInfo

import pytest
from jsonschema import Draft202012Validator, FormatChecker
from page_reader import SCHEMA, shown

from backupd.catalog import CatalogUnavailable, PingRecord
from backupd.errors import ErrorKind
from backupd.health import Failure, Freshness, Health, HealthFacts
from backupd.model import Hold, Task
from backupd.runbook import runbook_address
from backupd.status.calendar import Day
from backupd.status.model import History, LogEntry, MessageFigures
from backupd.web.localizer import Localizer
from backupd.web.page import page_response
from backupd.web.verdict import to_dos
from support.html_reader import Reader
from support.page_states import NOW, STATES, degraded, failing, first_day, healthy
from support.web_site import FakeService, WebSite, serving

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


@pytest.mark.parametrize(
    ("state", "heading", "step"),
    [
        ("healthy", "Everything is up to date", "Nothing to do."),
        ("degraded", "The last copy to offsite failed · 1 more below", "tasks-20261101-0700 is damaged"),
        (
            "failing",
            "The database of tasks is missing · 2 more below",
            "check the path and that the right volume is mounted",
        ),
        ("empty", "No copy is left to restore", "makes one now, or shows why it fails"),
        ("first-day", "The first backup starts within two minutes", "Nothing to do: it starts automatically"),
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


def test_restore_points_and_files_are_shown_with_the_command_that_restores_them(site: WebSite) -> None:
    text = shown(site, STATES["whole-app"]()).text
    newest, damaged = "point-20261125-0700", "point-20261123-0700"
    assert f"docker exec 0a1b2c3d4e5f backupd restore --point {newest}" in text
    assert f"backupd restore --point {damaged} --from offsite" in text, "a replica may have what is damaged here"
    assert f"backupd restore --point {damaged} docker" not in text
    assert "at most 12 ms apart · nothing has changed since" in text
    assert text.count("nothing has changed since") == 1
    assert "12,345 files, 2.1 GiB" in text
    assert "+12 files, +3.0 MiB" in text
    english, spanish = (site.ask("/", Accept_Language=language).text for language in ("en", "es"))
    assert "Size of the files of uploads from " in english
    assert "Tamaño de los archivos de uploads del " in spanish
    assert not re.search("Size of uploads|Tamaño de uploads", english + spanish), "their archive is a list"
    assert "backupd restore uploads-" not in text, "files come back with their restore point"
