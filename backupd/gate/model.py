"""The values of the gate: what an operator has set for one app, a push, and the deploy that follows from it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final, Literal

COMMIT: Final = re.compile("[0-9a-f]{40}|[0-9a-f]{64}", re.ASCII)  # its id, SHA-1 or SHA-256
TAGS: Final = "refs/tags/"
StepName = Literal["backup", "fetch", "status", "tests", "deliver", "health"]
# The order in which a deploy takes its steps; those that are not set up are left out.
STEPS: Final[tuple[StepName, ...]] = ("backup", "fetch", "status", "tests", "deliver", "health")
StepState = Literal["running", "passed", "failed"]
DeployState = Literal[
    "waiting",
    "running",
    "deployed",  # delivered, and the app answers with the new version
    "stopped",  # a step before the delivery failed: production is as it was
    "unhealthy",  # delivered, and the app did not come up with the new version
    "superseded",  # by a newer push, before the delivery
    "interrupted",  # by the end of the gate, at a step that cannot be done again
]
ENDED: Final[frozenset[DeployState]] = frozenset({"deployed", "stopped", "unhealthy", "superseded", "interrupted"})


@dataclass(frozen=True, slots=True)
class SidecarAccess:
    """The sidecar that backs up before a deploy."""

    url: str
    backup_token: str = field(repr=False)
    sources: tuple[str, ...] = ()  # none: all
    download_token: str | None = field(default=None, repr=False)  # for rehearsals
    timeout_s: float = 3600


@dataclass(frozen=True, slots=True)
class Forgejo:
    """The server of the repository (Forgejo or Gitea), which has the commit, its status, and learns of the outcome."""

    url: str
    repository: str  # OWNER/NAME
    token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class AppTests:
    """The tests of the app, run on the pushed commit by a user that owns nothing."""

    command: tuple[str, ...]
    timeout_s: float = 900
    user: int = 64000  # uid and gid
    rehearse: bool = False  # with a fresh copy of the last verified backup


@dataclass(frozen=True, slots=True)
class CommitStatus:
    """Another CI whose verdict on the commit is awaited."""

    contexts: tuple[str, ...] = ()  # patterns of its names; none: all but the gate's own
    timeout_s: float = 3600


@dataclass(frozen=True, slots=True)
class CapRover:
    """Delivers exactly the tested tree, by the token of the app."""

    url: str
    app: str
    token: str = field(repr=False)
    timeout_s: float = 600  # for which a server that is busy is asked again


@dataclass(frozen=True, slots=True)
class CapRoverWebhook:
    """Forwards the request of the push to CapRover's own webhook, which builds the head of its branch as it is then."""

    url: str = field(repr=False)
    timeout_s: float = 600


@dataclass(frozen=True, slots=True)
class LiveApp:
    """Where the app tells whether it is healthy, and which version it is."""

    health_url: str
    version_field: str = "version"
    timeout_s: float = 300


@dataclass(frozen=True, slots=True)
class Gate:
    """What an operator has set for one app; a step without a value is left out."""

    name: str
    secret: str = field(repr=False)  # that signs the requests of the webhook
    repository: str  # OWNER/NAME
    refs: tuple[str, ...]  # patterns, such as refs/heads/main and refs/tags/v*
    sidecar: SidecarAccess | None
    forgejo: Forgejo | None
    status: CommitStatus | None
    tests: AppTests | None
    target: CapRover | CapRoverWebhook
    app: LiveApp | None
    page_url: str = ""  # at which people reach the page of this gate; empty: unknown


@dataclass(frozen=True, slots=True)
class Push:
    """A push that a webhook has reported, its signature verified."""

    delivery: str  # the id of the request
    repository: str
    ref: str
    commit: str
    before: str  # the commit that the ref pointed to; zeros: none
    pusher: str
    body: bytes = field(default=b"", repr=False)  # as signed, with `headers`: what a webhook forwards unchanged
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def version(self) -> str:
        """What people call it: the tag, or the first digits of the commit."""
        return self.ref.removeprefix(TAGS) if self.is_tag else self.commit[:10]

    @property
    def is_tag(self) -> bool:
        """Whether a tag was pushed."""
        return self.ref.startswith(TAGS)


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a deploy."""

    name: StepName
    state: StepState
    began_at: datetime
    ended_at: datetime | None = None
    detail: str = ""  # what came of it, or why it failed
    hint: str = ""  # what to do about it


@dataclass(frozen=True, slots=True)
class Deploy:
    """One push on its way to production."""

    id: str
    gate: str
    push: Push
    received_at: datetime
    state: DeployState = "waiting"
    steps: tuple[Step, ...] = ()
    ended_at: datetime | None = None
    generations: tuple[str, ...] = ()  # the verified copies that were taken for it
    version_before: str | None = None  # that the app reported before the delivery

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in ENDED

    @property
    def failure(self) -> Step | None:
        """The step that failed."""
        return next((step for step in self.steps if step.state == "failed"), None)

    def with_step(self, step: Step) -> "Deploy":
        """Return this deploy with `step` as its newest, in the place of one of the same name."""
        return replace(self, steps=(*(one for one in self.steps if one.name != step.name), step))
