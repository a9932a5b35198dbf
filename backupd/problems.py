"""A problem as a value, with its English: what is wrong and the next step.

Headlines and next steps may be read by strangers: they name sources, replicas and generations, never a path or a host.
`detail` and `hint` are the words of a run, which may name both: for the operator alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from backupd.errors import ErrorKind
from backupd.formatting import human_duration
from backupd.model import Task

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
]
ProblemSeverity = Literal["unhealthy", "warning"]

_BY_CAUSE: Final[tuple[ProblemKind, ...]] = ("catalog", "unusable", "failed")
_RUNBOOK: Final = "docs/runbook.md"

_PROOF: Final[Mapping[str, str]] = {
    "backup": "verified backup of {}",
    "replicate": "off-site copy at {}",
    "drill": "proven restore from {}",
}
_RENEW: Final[Mapping[str, str]] = {
    "backup": "backupd backup --source {} makes one now; backupd doctor finds what is in the way",
    "replicate": "backupd replicate --to {} sends now; backupd doctor tries login and rights there",
    "drill": "backupd drill --from {} proves one now, and says what is wrong",
}
_RUN: Final[Mapping[str, str]] = {"replicate": "replication to {}"}
_RETRY: Final[Mapping[str, str]] = {
    "backup": "backupd backup --source {} tries again now, and says what is wrong",
    "replicate": "backupd replicate --to {} tries again now; backupd doctor tries login, host key and rights there",
    "drill": "backupd drill --source {} tries again now, and says what is wrong",
    "prune": "backupd prune --source {} tries again now, and says what is wrong",
    "scrub": "backupd verify --all checks every generation now",
}
CAUSES: Final[Mapping[ErrorKind, str]] = {
    "missing": "the database is missing",
    "unusable": "the database cannot be used",
    "corrupt": "a copy is damaged",
    "busy": "something else was using it",
    "no-space": "there is too little free space",
    "unreachable": "the replica cannot be reached",
    "denied": "the replica refused, or is not the right one",
    "no-copy": "there is no verified copy",
    "unproven": "the restored copy did not pass",
    "config": "the configuration cannot be used",
    "interrupted": "it was killed",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: `str` is its headline, `next_step` what to do.

    `store` and `catalog` are of the whole site; `missing` to `shrunk` of the source `subject`; `never`, `future` and
    `late` of the proof of `task` and `subject`; `failed` of the runs of `task` of `subject`, of which the last `runs`
    failed, the last one by `cause` (a drill from `store`); `generation` of the generation `reference` of `subject`.
    `since` is aware, None where it is not known; `restore` is the command that restores `subject`, empty where there
    is no copy. `age_s` and `limit_s` (seconds) come with `late`.
    """

    kind: ProblemKind
    severity: ProblemSeverity
    task: Task | None = None
    subject: str = ""
    since: datetime | None = None
    cause: ErrorKind | None = None
    runs: int = 0
    age_s: float = 0.0
    limit_s: float = 0.0
    store: str = ""
    reference: str = ""
    restore: str = ""
    detail: str = ""
    hint: str = ""

    def __str__(self) -> str:
        """Say what is wrong, in one sentence."""
        what = _PROOF.get(str(self.task), f"{self.task} of {{}}").format(self.subject)
        return {
            "store": "the directory of the backups cannot be read",
            "catalog": "the catalog cannot be used: how the last runs ended is not known; backups go on without it",
            "missing": f"the database of {self.subject} is missing: no backup can be made",
            "unusable": f"the database of {self.subject} is there but cannot be backed up as it is",
            "damaged": f"the database of {self.subject} is damaged: nothing is pruned",
            "unreadable": f"the database of {self.subject} can no longer be read: nothing is pruned",
            "shrunk": f"the database of {self.subject} has shrunk: nothing is pruned until an operator accepts it",
            "never": f"there is no {what} yet",
            "future": f"the last {what} is dated in the future: check the clock",
            "late": f"the last {what} is {human_duration(self.age_s)} old, more than {human_duration(self.limit_s)}",
            "failed": self._failure(),
            "generation": f"generation {self.reference} is damaged and no longer counts",
        }[self.kind]

    @property
    def unhealthy(self) -> bool:
        """Whether this alone makes everything unhealthy."""
        return self.severity == "unhealthy"

    @property
    def run(self) -> str:
        """What kind of run it is about: `backup of tasks`, `replication to offsite`, `drill of tasks from offsite`."""
        run = _RUN.get(str(self.task), f"{self.task} of {{}}").format(self.subject)
        return f"{run} from {self.store}" if self.store else run

    @property
    def proof(self) -> str:
        """What kind of proof it is about: `verified backup of tasks`, `off-site copy at offsite`."""
        return _PROOF.get(str(self.task), f"{self.task} of {{}}").format(self.subject)

    @property
    def next_step(self) -> str:
        """Say what to do next."""
        return {
            "store": "is the volume mounted, and may backupd read it? backupd doctor says more",
            "catalog": "backupd doctor says what is wrong with the catalog; backupd catalog rebuild makes a new one",
            "missing": f"is its volume mounted? {self._restoring('if it is lost, ')}",
            "unusable": f"backupd doctor says what is in the way; {self._restoring('if it is lost, ')}",
            "damaged": f"repair it, or {self._restoring()}",
            "unreadable": f"if that was meant: backupd prune --unfreeze --source {self.subject}; "
            f"{self._restoring('if not, ')}",
            "shrunk": f"if the loss was meant: backupd prune --unfreeze --source {self.subject}; "
            f"{self._restoring('if not, ')}",
            "never": _RENEW.get(str(self.task), "backupd doctor says what is wrong").format(self.subject),
            "future": "set the clock (NTP); the next success after that counts again",
            "late": _RENEW.get(str(self.task), "backupd doctor says what is wrong").format(self.subject),
            "failed": _RETRY.get(str(self.task), "backupd doctor says what is wrong").format(self.subject),
            "generation": "test the disk (smartctl, dmesg); backupd verify --all; restore from another generation or "
            "store",
        }[self.kind]

    @property
    def advice(self) -> str:
        """Say what to do next, to the operator alone: where that depends on the cause, in the words of the run."""
        return self.hint if self.hint and self.kind in _BY_CAUSE else self.next_step

    def _failure(self) -> str:
        cause = f": {CAUSES[self.cause]}" if self.cause and self.cause in CAUSES else ""
        how = "failed" if self.runs == 1 else f"failed {self.runs} times in a row"
        return f"the {self.run} {how}{cause}"

    def _restoring(self, when: str = "") -> str:
        if not self.restore:
            return "there is no verified copy to restore from"
        return f"{when}stop the app and restore it: {self.restore} ({_RUNBOOK})"
