"""Whether the app is up with the version that was delivered: Swarm goes back to the old one without a word."""

import re
import time
from dataclasses import dataclass
from typing import Final

from backupd.errors import GateStepFailed
from backupd.formatting import human_duration, one_line
from backupd.gate.model import LiveApp, Push
from backupd.gate.waiting import IsCancelled, abandonable, pause
from backupd.notifications.deploy import SETTLE_TIME, App, AppVersion, check_app

_POLL_S: Final = 1.0
_COMMIT: Final = re.compile(r"[0-9a-f]{7,64}", re.ASCII | re.IGNORECASE)
_LOG: Final = "look at its build log and its log in CapRover"


def version_now(app: LiveApp) -> str | None:
    """Return the version that the app reports, None where it reports none or does not answer."""
    return _asked(app).version


def is_version(reported: str | None, push: Push) -> bool:
    """Tell whether an app reports the version of `push`: the commit, at least 7 digits of it, or the tag.

    The tag and what is reported may have a `v` before the number, or not.
    """
    text = (reported or "").strip()
    if not text:
        return False
    if _COMMIT.fullmatch(text) and push.commit.startswith(text.lower()):
        return True
    return push.is_tag and text.removeprefix("v") == push.version.removeprefix("v")


@dataclass(slots=True)
class _Watched:
    """What has been seen of the app."""

    last: AppVersion
    new_since: float | None = None  # when it was first healthy with the new version, without a break
    was_new: bool = False

    def see(self, now: AppVersion, push: Push, at: float) -> None:
        """Take in an answer."""
        is_up = not now.error and is_version(now.version, push)
        self.new_since = (self.new_since if self.new_since is not None else at) if is_up else None
        self.was_new |= is_version(now.version, push)
        self.last = now


def await_version(
    app: LiveApp, push: Push, before: str | None, cancelled: IsCancelled, *, settle_s: float | None = None
) -> str:
    """Wait until the app is healthy with the version of `push` for 10 seconds; return how long that took.

    `before` is the version that it reported before the delivery. A version that is up at the time limit may still
    settle. Raises GateStepFailed, Cancelled.
    """
    settle = SETTLE_TIME.total_seconds() if settle_s is None else settle_s
    began = time.monotonic()
    watched = _Watched(AppVersion("app", None, "it was not asked"))
    while True:
        watched.see(abandonable(lambda: _asked(app), cancelled), push, time.monotonic())
        now, since = time.monotonic(), watched.new_since
        if since is not None and now - since >= settle:
            return _arrived(watched, push, before, since - began)
        if since is None and now - began >= app.timeout_s:
            raise _not_arrived(watched, push, before, app)
        pause(_POLL_S, cancelled)


def _asked(app: LiveApp) -> AppVersion:
    return check_app(App(app.health_url, version_field=app.version_field))


def _arrived(watched: _Watched, push: Push, before: str | None, after_s: float) -> str:
    version = one_line(watched.last.version or "")
    if is_version(before, push):
        return f"the app is healthy and reports {version}, as it did before the delivery: it may not have changed"
    return f"the app is healthy and reports {version}, {human_duration(max(0.0, after_s))} after the delivery"


def _not_arrived(watched: _Watched, push: Push, before: str | None, app: LiveApp) -> GateStepFailed:
    """Return what is wrong at the time limit."""
    last, limit, wanted = watched.last, human_duration(app.timeout_s), one_line(push.version)
    reported = one_line(last.version or "")
    if last.error:
        seen = f", and reports {reported}" if reported else ""
        return GateStepFailed(f"the app is not healthy after {limit}: {one_line(last.error)}{seen}", _LOG)
    if last.version is None:
        return GateStepFailed(
            f"the app is healthy and reports no version: whether {wanted} runs cannot be determined",
            f"let its health_url answer JSON with the field {app.version_field}, which a build by CapRover gets from "
            "ARG CAPROVER_GIT_COMMIT_SHA in its Dockerfile",
        )
    if watched.was_new:
        what = f"the app reported {wanted} and reports {reported} after {limit}"
        return GateStepFailed(f"{what}: the new version does not stay up, or CapRover went back to the old one", _LOG)
    if last.version == before:
        what = f"the app still reports {reported} after {limit}"
        why = "the build failed, or CapRover went back to the old version silently since the new one did not stay up"
        return GateStepFailed(f"{what}: {why}", _LOG)
    return GateStepFailed(
        f"the app reports {reported} after {limit}, which is neither {wanted} nor commit {push.commit[:10]}",
        f"{_LOG}; check version_field, and that the build takes the version from CAPROVER_GIT_COMMIT_SHA",
    )
