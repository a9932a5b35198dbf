"""A real Prometheus scrapes real daemons with the files of deploy/prometheus, and evaluates the alerts."""

import http.client
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from support.bank import make_bank
from support.command import Backupd
from support.daemon import Daemon, free_port, running_daemon, wait_until

pytestmark = pytest.mark.no_cover

DEPLOY = Path(__file__).parents[2] / "deploy" / "prometheus"
TOKEN = "a token of the tests"
OTHERS = """
  - job_name: backupd-without-token
    static_configs: [{targets: ["%s"]}]
  - job_name: backupd-with-a-wrong-token
    scrape_interval: 5s  # an answer to a wrong token takes up to 2 s
    authorization: {credentials: wrong}
    static_configs: [{targets: ["%s"]}]
"""


@dataclass(frozen=True)
class Prometheus:
    """A running Prometheus, asked over its HTTP API."""

    port: int

    def ask(self, path: str, **query: str) -> Any:
        """Return the data of an answer, None where there is no answer yet."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", f"/api/v1/{path}?{urlencode(query)}")
            return json.loads(connection.getresponse().read())["data"]
        except (OSError, ValueError, LookupError):
            return None
        finally:
            connection.close()

    def value(self, expression: str) -> float | None:
        """Return the one value of an instant query, None while there is none."""
        found = (self.ask("query", query=expression) or {"result": []})["result"]
        return float(found[0]["value"][1]) if len(found) == 1 else None

    def rows(self, expression: str) -> list[Any]:
        """Return the rows of an instant query, which Prometheus must answer."""
        rows: list[Any] = self.ask("query", query=expression)["result"]
        return rows

    def targets(self) -> dict[str, tuple[str, str]]:
        """Return health and last error of each target by its job, without those that were not scraped yet."""
        found = (self.ask("targets") or {"activeTargets": []})["activeTargets"]
        return {t["labels"]["job"]: (t["health"], t["lastError"]) for t in found if t["health"] != "unknown"}

    def rules(self) -> list[dict[str, Any]]:
        return [rule for group in (self.ask("rules") or {"groups": []})["groups"] for rule in group["rules"]]


def backupd_in(home: Path, **environ: str) -> Backupd:
    home.mkdir()
    make_bank(home / "tasks.db")
    own = {"BACKUPD_DATABASE": str(home / "tasks.db"), "BACKUPD_SPACE__RESERVE": "0", **environ}
    return Backupd(own, home)


def configure(home: Path, guarded: Daemon, unguarded: Daemon) -> Path:
    """Write what docs/monitoring.md tells to: the sample with target and token of one's own; only hastier."""
    shutil.copy(DEPLOY / "alerts.yml", home)
    (home / "backupd.token").write_text(TOKEN)
    sample = (DEPLOY / "prometheus.yml").read_text()
    changes = {
        "interval: 1m": "interval: 200ms",
        "/etc/prometheus/backupd.token": str(home / "backupd.token"),
        '"backupd:8080"': f'"127.0.0.1:{guarded.port}"',
        "# Where to send alerts": OTHERS % (f"127.0.0.1:{unguarded.port}", f"127.0.0.1:{guarded.port}") + "#",
    }
    for old, new in changes.items():
        assert old in sample
        sample = sample.replace(old, new)
    (home / "prometheus.yml").write_text(sample)
    return home / "prometheus.yml"


def filled(query: str) -> str:
    """Return a query of the dashboard with the variables that an operator chose."""
    return query.replace("$job", "backupd").replace("$instance", ".*").replace("$source", "tasks|none")


@contextmanager
def running_prometheus(config: Path) -> Iterator[Prometheus]:
    port, output = free_port(), config.with_name("output.txt")
    places = (f"--config.file={config}", f"--storage.tsdb.path={config.with_name('data')}")
    with output.open("wb") as stream:
        process = subprocess.Popen(
            ["prometheus", *places, f"--web.listen-address=127.0.0.1:{port}"], stdout=stream, stderr=subprocess.STDOUT
        )
        try:
            yield Prometheus(port)
        except AssertionError:
            print(output.read_text())
            raise
        finally:
            process.kill()  # it keeps nothing that is worth an orderly end
            process.wait(30)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prometheus")


@pytest.fixture(scope="module")
def guarded(home: Path) -> Backupd:
    """The command beside the daemon with a token."""
    return backupd_in(home / "guarded", BACKUPD_HTTP__TOKEN=TOKEN)


@pytest.fixture(scope="module")
def prometheus(home: Path, guarded: Backupd) -> Iterator[Prometheus]:
    """Prometheus, having scraped three times over: with the token, without one where none is set, with a wrong one."""
    with (
        running_daemon(guarded) as daemon,
        running_daemon(backupd_in(home / "unguarded")) as unguarded,
        running_prometheus(configure(home, daemon, unguarded)) as prometheus,
    ):
        wait_until(lambda: daemon.ask("/health")[0] == unguarded.ask("/health")[0] == 200, "the first backups")
        healthy = 'backupd_healthy{job="%s"}'
        for job in ("backupd", "backupd-without-token"):
            wait_until(partial(prometheus.value, healthy % job), f"health of {job} at Prometheus")
        wait_until(lambda: len(prometheus.targets()) == 3, "three targets")
        yield prometheus


def test_prometheus_scrapes_daemon_with_sample_token_and_without(prometheus: Prometheus) -> None:
    targets = prometheus.targets()
    assert targets["backupd"] == targets["backupd-without-token"] == ("up", "")
    assert targets["backupd-with-a-wrong-token"] == ("down", "server returned HTTP status 401 Unauthorized")


def test_prometheus_has_figures_of_first_backup(prometheus: Prometheus) -> None:
    mine = '{job="backupd", task="backup"}'
    young = f"time() - backupd_proof_timestamp_seconds{mine} < backupd_proof_limit_seconds{mine}"
    wait_until(lambda: prometheus.value(young), "a scrape after the first backup")
    assert prometheus.value('backupd_generations{job="backupd", source="tasks", state="verified"}') == 1


def test_prometheus_evaluates_every_rule_without_error(prometheus: Prometheus) -> None:
    def evaluated() -> bool:
        return {rule["health"] for rule in prometheus.rules()} == {"ok"}

    wait_until(evaluated, "an evaluation of all rules")
    names = [rule["name"] for rule in prometheus.rules()]
    assert names == [line.split()[-1] for line in (DEPLOY / "alerts.yml").read_text().splitlines() if "alert:" in line]
    assert not any(rule.get("lastError") for rule in prometheus.rules())


@pytest.mark.real_clock
def test_prometheus_alerts_only_of_daemon_that_refuses_token(prometheus: Prometheus) -> None:
    def alerts() -> set[tuple[str, str]]:
        found = [alert["labels"] for rule in prometheus.rules() for alert in rule["alerts"]]
        named = {(labels["alertname"], labels.get("job", "")) for labels in found}
        return {(name, job) for name, job in named if name != "BackupdFreeSpaceEnding"}  # others use this disk as well

    wait_until(lambda: alerts() == {("BackupdDown", "backupd-with-a-wrong-token")}, "the one alert")


def test_prometheus_answers_each_query_of_dashboard_and_marks_failure_and_restore(
    prometheus: Prometheus, guarded: Backupd
) -> None:
    dashboard = json.loads((DEPLOY.parent / "grafana" / "backupd.json").read_text())
    away, backups = str(guarded.cwd / "away" / "tasks.db"), str(guarded.cwd / "backups")
    assert guarded("backup", BACKUPD_DATABASE=away, BACKUPD_BACKUPS_DIR=backups).code == 1
    assert guarded("restore", "latest", "--yes").code == 0
    for annotation in dashboard["annotations"]["list"]:
        wait_until(partial(prometheus.rows, filled(annotation["expr"])), f"the mark of {annotation['name']}")
    queries = [filled(target["expr"]) for panel in dashboard["panels"] for target in panel["targets"]]
    empty = {re.findall(r"backupd_\w+", query)[0] for query in queries if not prometheus.rows(query)}
    assert empty - {"backupd_problem"} == {  # without drills, messages, pings, a gate, files and a second source
        *("backupd_files", "backupd_files_size_bytes", "backupd_point_timestamp_seconds"),
        *("backupd_point_spread_seconds", "backupd_point_parts"),
        *("backupd_gate_deploys", "backupd_gate_step_duration_seconds"),
        *("backupd_drill_recovery_seconds", "backupd_stage_duration_seconds", "backupd_drill_data_age_seconds"),
        *("backupd_message_last_success_timestamp_seconds", "backupd_message_last_failure_timestamp_seconds"),
        *("backupd_ping_last_success_timestamp_seconds", "backupd_ping_last_failure_timestamp_seconds"),
        "backupd_pings_total",
    }
