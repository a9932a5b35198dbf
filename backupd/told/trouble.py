"""What there is to tell of: the troubles of this moment, and news; pure."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from backupd.catalog import LastRun, RunRecord
from backupd.errors import BackupdError, TemporaryError
from backupd.health import Health, HealthFacts, Standing
from backupd.model import Hold, Mood
from backupd.spans import human_duration

# As long as the alert BackupdProofMissing waits: on the first day there is no proof of anything.
FIRST_DAY = timedelta(hours=6)
# What is likely to go away is tried again after 2, 4 and 8 minutes; what was killed, at once.
PASSING = timedelta(minutes=15)
_NOT_NEWS_AFTER = timedelta(days=1)
_NOBODY = "-"

_PROOF = {"backup": "verified backup of", "replicate": "off-site copy at", "drill": "proven restore from"}
_NEXT = {
    "backup": "backupd backup makes one now, or says what is wrong",
    "replicate": "backupd doctor tries login, host key and rights there; backupd replicate sends now",
    "drill": "backupd drill proves one now, or says what is wrong",
}


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something wrong: `key` (kind, subject, more) is that of the same trouble, however it is worded.

    It is not worth telling before it has lasted for `patience`; `since` None means since it was noticed. `over` is the
    sentence that will tell of its end.
    """

    key: str
    headline: str
    detail: str
    next_step: str
    over: str
    since: datetime | None = None
    patience: timedelta = timedelta()
    mood: Mood = "failure"


@dataclass(frozen=True, slots=True)
class News:
    """Something that happened once: `mark` tells it from what happened before under the same `key`."""

    key: str
    mark: str
    headline: str
    detail: str
    mood: Mood = "success"


@dataclass(frozen=True, slots=True)
class Facts:
    """All that messages depend on beside the clock.

    Troubles of the kinds in `blind` could not be looked for, and those of subjects not in `subjects` are nobody's any
    more: that they are not among `troubles` does not mean that they are over.
    """

    troubles: tuple[Trouble, ...] = ()
    news: tuple[News, ...] = ()
    blind: frozenset[str] = frozenset()
    subjects: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Look:
    """One look at a site: `runs` None where the catalog did not answer, for which `catalog_error` tells why.

    `damaged` are the ids of generations that no longer count, with their sources.
    """

    health: HealthFacts
    subjects: frozenset[str]
    runs: tuple[LastRun, ...] | None = ()
    damaged: Mapping[str, str] = field(default_factory=dict)
    catalog_error: BackupdError | None = None


def facts_of(look: Look, now: datetime) -> Facts:
    """Return what there is to tell of; what could not be seen is neither trouble nor well."""
    blind = {"late", "corrupt", "shrink", "damaged"} if look.health.unknown else set[str]()
    if look.runs is None:
        blind |= {"late", "failed"}
    troubles = [
        *(_unreadable(what) for what in look.health.unknown),
        *_catalog(look.catalog_error),
        *([] if "corrupt" in blind else map(_held, look.health.holds)),
        *([] if "late" in blind else _late(look.health.standings, now)),
        *_failed(run for run in look.runs or () if run.run.source in look.subjects),
        *([] if "damaged" in blind else (_damaged(key, source) for key, source in sorted(look.damaged.items()))),
    ]
    news = (run.run for run in look.runs or () if run.run.task == "drill" and run.run.source in look.subjects)
    return Facts(tuple(troubles), tuple(_proven(news, now)), frozenset(blind), look.subjects)


def subject_of(key: str) -> str | None:
    """Return whose trouble `key` is; None where it is that of the whole site."""
    subject = key.split(" ")[1]
    return None if subject == _NOBODY else subject


def kind_of(key: str) -> str:
    """Return the kind of trouble that `key` is of."""
    return key.partition(" ")[0]


def _unreadable(what: str) -> Trouble:
    return Trouble(
        f"unreadable {_NOBODY}",
        what,
        "whether there are backups cannot be told",
        "is the volume mounted, and may backupd read it? backupd doctor says more",
        "the directory of the backups can be read again",
        patience=PASSING,
    )


def _catalog(error: BackupdError | None) -> Iterator[Trouble]:
    if error is not None:
        over = "the catalog works again"
        headline = "the catalog cannot be used; backups go on without it"
        yield Trouble(f"catalog {_NOBODY}", headline, error.message, error.hint, over, None, PASSING, "warning")


def _held(hold: Hold) -> Trouble:
    key = f"{hold.kind} {hold.source} {hold.since.isoformat()}"  # another hold is another trouble
    accept = f"backupd prune --unfreeze --source {hold.source}"
    if hold.kind == "corrupt":
        good = f"the last good generation is {hold.reference}" if hold.reference else "there is no good generation"
        what, next_step = "is damaged", f"restore a good generation, or repair the database; {good}"
        if hold.unreadable:
            what = "can no longer be read"
            next_step = f"if that was meant: {accept}; if not: restore a good generation; {good}"
        over = f"the database of {hold.source} is sound again, or was accepted as it is: pruning goes on"
        return Trouble(
            key,
            f"the database of {hold.source} {what}; nothing is pruned",
            hold.reason,
            next_step,
            over,
            hold.since,
        )
    next_step = f"if that was meant: {accept}; if not: restore {hold.reference or 'the last good generation'}"
    over = f"the database of {hold.source} has grown back, or was accepted as it is: pruning goes on"
    headline = f"the database of {hold.source} has shrunk; nothing is pruned"
    return Trouble(key, headline, hold.reason, next_step, over, hold.since, mood="warning")


def _late(standings: Iterable[Standing], now: datetime) -> Iterator[Trouble]:
    for standing in standings:
        for reason in Health.of(HealthFacts((standing,)), now).reasons:
            what = f"{_PROOF.get(standing.task, f'{standing.task} of')} {standing.subject}"
            passed_at = standing.last_at + timedelta(seconds=standing.limit_s) if standing.last_at else None
            yield Trouble(
                f"late {standing.subject} {standing.task}",
                reason,
                "",
                _NEXT.get(standing.task, "backupd doctor says what is wrong"),
                f"there is a {what} again that is young enough",
                passed_at if passed_at and passed_at <= now else None,
                timedelta() if standing.last_at else FIRST_DAY,
            )


def _failed(runs: Iterable[LastRun]) -> Iterator[Trouble]:
    for last in runs:
        run = last.run
        if run.outcome != "failed":
            continue
        passing = run.exit_code in (TemporaryError.exit_code, None)  # None: killed
        hint = run.report.hint if run.report else "find out who killed it (too little memory, a power cut)"
        name = run_name(run)
        yield Trouble(
            f"failed {run.source} {run.task}",
            f"the {name} failed",
            run.error or "",
            f"{hint or 'backup.log says more'}; it is tried again by itself",
            f"the {name} succeeds again",
            last.failing_since,
            PASSING if passing else timedelta(),
        )


def _damaged(key: str, source: str) -> Trouble:
    return Trouble(
        f"damaged {source} {key}",
        f"generation {key} is damaged and no longer counts",
        "a check found that it does not match its manifest",
        "test the disk (smartctl, dmesg); backupd verify --all; restore from another generation or store",
        f"generation {key} is gone, or was found sound",
        mood="warning",
    )


def _proven(runs: Iterable[RunRecord], now: datetime) -> Iterator[News]:
    for run in runs:
        if run.outcome == "failed" or run.finished_at is None or now - run.finished_at > _NOT_NEWS_AFTER:
            continue
        took = f"in {human_duration(run.duration_s)}" if run.duration_s is not None else ""
        generation = f" of {run.generation}" if run.generation else ""
        warnings = "; ".join(run.report.warnings) if run.report else ""
        headline = f"the {run_name(run)} has proven a restore{generation} {took}".rstrip()
        yield News(f"drill {run.source}", run.started_at.isoformat(), headline, warnings)


def run_name(run: RunRecord) -> str:
    """Return `backup of tasks`, `replicate to offsite`, `drill of tasks from offsite` where its store is known."""
    store = f" from {run.report.drill.store}" if run.report and run.report.drill else ""
    return f"{run.task} {'to' if run.task == 'replicate' else 'of'} {run.source}{store}"
