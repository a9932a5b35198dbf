"""A problem as a value, with its English: what is wrong, the next step, and the sentence for its end.

Headlines, next steps and ends may be read by strangers: they name sources, replicas and generations, never a path or a
host. `detail` and `hint` are the words of a run, which may name both: they are for the operator alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, NamedTuple

from backupd.errors import ErrorKind
from backupd.formatting import human_duration
from backupd.model import LOCAL_STORE, MANIFEST_SUFFIX, Kind, Task, archive_name
from backupd.runbook import Topic

# `store` and `catalog` concern everything; `missing` to `shrunk` the source `subject`; `never`, `future` and `late` the
# latest success of `task` for `subject`; `failed` the last `runs` runs of `task` for `subject`, the last by `cause`;
# `generation`, `manifest`, `access` and `archive` the generation `reference` of `subject`.
ProblemKind = Literal[
    "store",
    "catalog",
    "missing",
    "unusable",
    "damaged",
    "unreadable",
    "shrunk",
    "never",
    "future",
    "late",
    "failed",
    "generation",
    "manifest",
    "access",
    "archive",
]
ProblemSeverity = Literal["unhealthy", "warning"]

_KINDS_WITH_HINT: Final[tuple[ProblemKind, ...]] = ("catalog", "unusable", "failed")
_DOCTOR: Final = "backupd doctor finds the cause"

_SUCCESS: Final[Mapping[str, str]] = {
    "backup": "verified backup of {}",
    "replicate": "off-site copy at {}",
    "drill": "proven restore from {}",
}
_RENEW: Final[Mapping[str, str]] = {
    "backup": f"run backupd backup --source {{}} now; if it fails, {_DOCTOR}",
    "replicate": "run backupd replicate --to {} now; backupd doctor checks login and permissions there",
    "drill": "run backupd drill --from {} now: it reports what is wrong",
}
_RUN: Final[Mapping[str, str]] = {"replicate": "replication to {}"}
_RETRY: Final[Mapping[str, str]] = {
    "backup": "run backupd backup --source {} to try again now and see the error",
    "replicate": "run backupd replicate --to {} to try again now; backupd doctor checks login and host key",
    "drill": "run backupd drill --source {} to try again now and see the error",
    "prune": "run backupd prune --source {} to try again now and see the error",
    "scrub": "run backupd verify --all to check every generation now",
}
CAUSES: Final[Mapping[ErrorKind, str]] = {
    "missing": "the {what} is missing",
    "unusable": "the {what} cannot be used",
    "corrupt": "a copy is damaged",
    "busy": "something else was using it",
    "no-space": "there is too little free space",
    "unreachable": "the replica cannot be reached",
    "denied": "the replica refused, or is not the right one",
    "no-copy": "there is no verified copy",
    "unproven": "the restored copy did not pass",
    "config": "the configuration cannot be used",
    "timeout": "it exceeded its time limit",
    "interrupted": "it was killed",
}


# The section of the runbook on each kind; that of a late task depends on the task, that of a failure on its cause.
_TOPICS: Final[Mapping[ProblemKind, Topic]] = {
    "store": "unhealthy",
    "catalog": "catalog-broken",
    "missing": "source-unusable",
    "unusable": "source-unusable",
    "damaged": "pruning-held",
    "unreadable": "pruning-held",
    "shrunk": "pruning-held",
    "never": "never-succeeded",
    "future": "clock-wrong",
    "generation": "generation-damaged",
    "manifest": "generation-damaged",
    "access": "generation-damaged",
    "archive": "generation-damaged",
}
_TOPICS_OF_TASKS: Final[Mapping[str, Topic]] = {
    "backup": "backup-too-old",
    "replicate": "replica-too-old",
    "drill": "drill-too-old",
}
_TOPICS_OF_CAUSES: Final[Mapping[str, Topic]] = {"no-space": "free-space", "denied": "keys"}


class _Texts(NamedTuple):
    """Templates for one kind of problem; `Problem` fills them in."""

    headline: str
    next_step: str
    resolved: str


_BACK: Final = "there is a recent {success} again"
_ACCEPTED: Final = "or was accepted as it is: pruning continues"
_UNFREEZE: Final = "backupd prune --unfreeze --source {subject}"
_TEXTS: Final[Mapping[ProblemKind, _Texts]] = {
    "store": _Texts(
        "the directory of the backups cannot be read",
        f"check that the volume is mounted and readable; {_DOCTOR}",
        "the directory of the backups can be read again",
    ),
    "catalog": _Texts(
        "the catalog cannot be used: the result of recent runs is unknown; backups continue without it",
        f"{_DOCTOR}; backupd catalog rebuild makes a new catalog",
        "the catalog works again",
    ),
    "missing": _Texts(
        "the {what} of {subject} is missing: no backup can be made",
        "check that its volume is mounted; {restore_if_lost}",
        "the {what} of {subject} is no longer missing",
    ),
    "unusable": _Texts(
        "the {what} of {subject} cannot be backed up in its current state",
        f"{_DOCTOR}; {{restore_if_lost}}",
        "the {what} of {subject} can be backed up again",
    ),
    "damaged": _Texts(
        "the {what} of {subject} is damaged: nothing is pruned",
        "repair it, or {restore}",
        f"the {{what}} of {{subject}} is intact again, {_ACCEPTED}",
    ),
    "unreadable": _Texts(
        "the {what} of {subject} can no longer be read: nothing is pruned",
        f"if this is intended: {_UNFREEZE}; {{restore_if_not}}",
        f"the {{what}} of {{subject}} can be read again, {_ACCEPTED}",
    ),
    "shrunk": _Texts(
        "the {what} of {subject} has shrunk: nothing is pruned until an operator accepts it",
        f"if the loss is intended: {_UNFREEZE}; {{restore_if_not}}",
        f"the {{what}} of {{subject}} has grown back, {_ACCEPTED}",
    ),
    "never": _Texts("there is no {success} yet", "{renew}", _BACK),
    "future": _Texts(
        "the last {success} is dated in the future: check the clock",
        "correct the clock (NTP); the next success after that counts again",
        _BACK,
    ),
    "late": _Texts("the last {success} is {age} old, more than {limit}", "{renew}", _BACK),
    "failed": _Texts("the {run} failed{count}{cause}", "{retry}", "the {run} succeeds again"),
    "generation": _Texts(
        "generation {reference} is damaged and no longer counts",
        "check the disk (smartctl, dmesg), then run backupd verify --all; restore from another generation or store",
        "generation {reference} was removed, or a check found it intact",
    ),
    "manifest": _Texts(
        "generation {reference} does not count: its manifest cannot be used",
        "{refused_step}",
        "generation {reference} was removed, or counts again",
    ),
    "access": _Texts(
        "generation {reference} does not count: its manifest cannot be read",
        f"check owner and mode of {{reference}}{MANIFEST_SUFFIX}, and the disk (smartctl, dmesg)",
        "generation {reference} was removed, or counts again",
    ),
    "archive": _Texts(
        "generation {reference} does not count: its archive is gone",
        "{refused_step}",
        "generation {reference} was removed, or counts again",
    ),
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: `str` is its headline, `next_step` what to do, `resolved` the sentence for its end."""

    kind: ProblemKind
    severity: ProblemSeverity
    task: Task | None = None
    subject: str = ""  # the source, replica or store; empty where it concerns everything
    since: datetime | None = None  # aware; None where it is not known
    cause: ErrorKind | None = None
    runs: int = 0  # how many runs in a row failed
    age_s: float = 0.0
    limit_s: float = 0.0
    store: str = ""  # the store that a failed drill restored from
    reference: str = ""
    restore: str = ""  # the command that restores `subject`; empty where there is no copy
    detail: str = ""
    hint: str = ""
    of_files: bool = False  # `subject` is a set of files, in a directory

    def __str__(self) -> str:
        """Return what is wrong, in one sentence."""
        return self._filled(_TEXTS[self.kind].headline)

    @property
    def unhealthy(self) -> bool:
        """Whether this alone makes everything unhealthy."""
        return self.severity == "unhealthy"

    @property
    def run(self) -> str:
        """The run it concerns: `backup of tasks`, `replication to offsite`, `drill of tasks from offsite`."""
        run = _RUN.get(str(self.task), f"{self.task} of {{}}").format(self.subject)
        return f"{run} from {self.store}" if self.store else run

    @property
    def success(self) -> str:
        """The success it concerns: `verified backup of tasks`, `off-site copy at offsite`."""
        return _SUCCESS.get(str(self.task), f"{self.task} of {{}}").format(self.subject)

    @property
    def next_step(self) -> str:
        """Return what to do next."""
        return self._filled(_TEXTS[self.kind].next_step)

    @property
    def advice(self) -> str:
        """Return what to do next, for the operator alone: in the words of the run where it depends on the cause."""
        return self.hint if self.hint and self.kind in _KINDS_WITH_HINT else self.next_step

    @property
    def topic(self) -> Topic:
        """The section of the runbook on it, for `runbook_address`."""
        if self.kind == "late":
            return _TOPICS_OF_TASKS.get(str(self.task), "unhealthy")
        if self.kind == "failed":
            return _TOPICS_OF_CAUSES.get(str(self.cause), "runs-failing")
        return _TOPICS[self.kind]

    @property
    def resolved(self) -> str:
        """Return the sentence that reports its end."""
        return self._filled(_TEXTS[self.kind].resolved)

    def _filled(self, template: str) -> str:
        task, what = str(self.task), "directory" if self.of_files else "database"
        return template.format(
            subject=self.subject,
            what=what,
            reference=self.reference,
            run=self.run,
            success=self.success,
            age=human_duration(self.age_s),
            limit=human_duration(self.limit_s),
            count="" if self.runs == 1 else f" {self.runs} times in a row",
            cause=f": {CAUSES[self.cause].format(what=what)}" if self.cause and self.cause in CAUSES else "",
            renew=_RENEW.get(task, _DOCTOR).format(self.subject),
            retry=_RETRY.get(task, _DOCTOR).format(self.subject),
            restore=self._restore_step(""),
            restore_if_lost=self._restore_step(f"if the {what} is lost, "),
            restore_if_not=self._restore_step("if not, "),
            refused_step=refused_step(self.reference, archive_lost=self.kind == "archive"),
        )

    def _restore_step(self, when: str) -> str:
        step = f"{when}stop the app and restore it: {self.restore}"
        return step if self.restore else "there is no verified copy to restore from"


def refused_step(generation_id: str, store: str = LOCAL_STORE, *, archive_lost: bool, kind: Kind = "database") -> str:
    """Return what to do about a generation whose manifest cannot be used, or whose archive is gone."""
    archive = archive_name(generation_id, kind)
    remove = f"backupd remove {generation_id}{f' --store {store}' if store != LOCAL_STORE else ''}"
    if archive_lost:
        return f"put {archive} back, or run {remove}"
    return f"if gunzip -t {archive} finds it intact, copy it elsewhere; then run {remove}"
