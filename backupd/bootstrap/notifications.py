"""Builds notifications, their channels and the app to check from the configuration."""

from collections.abc import Iterator
from datetime import timedelta
from zoneinfo import ZoneInfo

from backupd.bootstrap.tasks import limits, monitors
from backupd.config import Config
from backupd.errors import ConfigError
from backupd.health import Health
from backupd.model import LOCAL_STORE
from backupd.notifications.apprise import Sender
from backupd.notifications.delivery import NotificationOptions, try_channels, try_pings
from backupd.notifications.deploy import App
from backupd.notifications.message import Channel, parse_channels
from backupd.pings import DAILY, Monitor
from backupd.schedule import Schedule
from backupd.system.container import host_name
from backupd.tasks.context import TaskContext
from backupd.tasks.doctor import Finding
from backupd.tasks.freshness import read_health_facts

_MOST_NAMES = 3


def notification_options(config: Config) -> NotificationOptions:
    """Return what the daemon notifies of, when and where."""
    zone = ZoneInfo(config.schedule.timezone)
    daily = config.pings.get(DAILY)
    return NotificationOptions(
        scope=next(iter(config.sources)),
        name=message_name(config),
        zone=zone,
        subjects=frozenset((*config.sources, *config.files, *config.replicas, LOCAL_STORE)),
        limits=limits(config),
        channels=channels(config),
        digest=Schedule.parse(config.notify.digest, zone) if config.notify.digest else None,
        daily=Monitor.parse(daily.get_secret_value()) if daily else None,
        daily_schedule=Schedule.parse(config.schedule.daily, zone),
        app=app_to_check(config),
        docs_url=config.docs_url,
    )


def channels(config: Config) -> tuple[Channel, ...]:
    """Return the channels of notifications."""
    return parse_channels(url.get_secret_value() for url in config.notify.urls)


def require_usable_channels(config: Config) -> None:
    """Raise ConfigError where Apprise cannot use a URL under [notify], with one line for each; nothing is sent."""
    if config.notify.urls:
        errors = Sender().check(channels(config))
        wrong = [f"notify.urls: {channel.masked}: {error}" for channel, error in errors.items() if error]
        if wrong:
            raise ConfigError("\n".join(wrong), "see what each service needs at https://github.com/caronc/apprise/wiki")


def message_name(config: Config) -> str:
    """Return the name of this backupd in messages."""
    return config.notify.name or _first_names(list(config.sources or config.gate))


def page_name(config: Config) -> str:
    """Return the name of this backupd on its page: as in messages, or its first sources and the name of the host."""
    if config.notify.name:
        return config.notify.name
    host = host_name()
    return f"{_first_names(list(config.sources))}{f' · {host}' if host else ''}"


def _first_names(names: list[str]) -> str:
    more = f" + {len(names) - _MOST_NAMES}" if len(names) > _MOST_NAMES else ""
    return f"{', '.join(names[:_MOST_NAMES])}{more}"


def try_notifications(config: Config, context: TaskContext) -> Iterator[Finding]:
    """Send a test to each channel and each monitor, and yield a finding for each."""
    if config.notify.urls:
        yield from try_channels(channels(config), message_name(config), context.clock())
    if config.pings:
        yield from try_pings(monitors(config), Health.of(read_health_facts(limits(config), context), context.clock()))


def app_to_check(config: Config) -> App | None:
    """Return the app whose deploys are reported, None where no health_url is set."""
    app = config.app
    if app.health_url is None:
        return None
    timeout = timedelta(seconds=app.deploy_timeout_s)
    return App(app.health_url, app.version, app.version_file, app.version_header, app.version_field, timeout)
