"""The sections of the schema: names, kinds, defaults and descriptions of their keys.

What is said here, of a section in its docstring and of a key in its description, is what the example says.
"""

from datetime import timedelta
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from backupd.config import kinds
from backupd.model import RetentionPolicy


class Table(BaseModel):
    """A section: frozen, refuses keys that it does not know, and shows no value in an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class SourceSection(Table):
    """One SQLite database of the app; its name becomes the first part of file names."""

    path: kinds.FilePath = Field(description="The live database file.", examples=["/app/data/tasks.db"])
    method: Literal["backup", "vacuum"] = Field(
        "backup",
        description='"backup" copies page by page, byte for byte; "vacuum" then rewrites the checked copy '
        "without free pages (VACUUM INTO), which needs space for both.",
    )
    allow_empty: bool = Field(
        default=False,
        description="Accept an empty file, and a database that has lost all its tables, instead of failing.",
    )
    timeout_s: kinds.Seconds = Field(3600, gt=0, description="Seconds that a snapshot may take in all.")
    busy_timeout_s: kinds.Seconds = Field(60, description="Seconds to wait for a lock that the app holds.")
    writer_budget_s: kinds.Seconds = Field(
        2.0,
        gt=0,
        description="Seconds that one pinned copy may block the app's writers where the database is in "
        "rollback-journal mode; WAL writers are never blocked.",
    )
    hot_journal: Literal["copy", "fail"] = Field(
        "copy",
        description='After a crashed writer left a journal: "copy" database and journal and recover '
        'the copy, or "fail".',
    )
    hot_journal_wait_s: kinds.Seconds = Field(
        60, description="Seconds to wait for the app to recover such a journal by itself."
    )
    network_fs: Literal["refuse", "allow"] = Field(
        "refuse",
        description='"allow" accepts a database on NFS, SMB, a share of Docker Desktop and other network file systems, '
        "whose locks may fail.",
    )
    hard_link: Literal["refuse", "allow"] = Field(
        "refuse",
        description='"allow" accepts a database file with a second name (a hard link, or a mount of the file alone at '
        "another place), beside which its journal may be.",
    )


class RetentionSection(Table):
    """Which generations are kept, in addition to pinned ones; at least one value must be above zero.

    A duration is a number and its unit: "90min", "48h", "7d", "2w".
    """

    within: kinds.Span = Field(
        timedelta(hours=48),
        description="Verified generations are kept that are at most this much older than the newest one, and the "
        "one before them, so that every state of that time can be restored; 0: none for its age.",
        examples=["48h"],
    )
    hourly: kinds.Count = Field(
        0, description="Number of newest hours with a verified generation; the last one of each is kept."
    )
    daily: kinds.Count = Field(7, description="Days, likewise.")
    weekly: kinds.Count = Field(4, description="ISO weeks, likewise.")
    monthly: kinds.Count = Field(0, description="Months, likewise.")
    yearly: kinds.Count = Field(0, description="Years, likewise.")
    last: kinds.Count = Field(0, description="Number of newest generations that are kept in any case.")

    @model_validator(mode="after")
    def _keeps_something(self) -> Self:
        if not any(value for _, value in self):
            raise ValueError("an empty policy is refused: it would remove every generation; keep at least one")
        return self

    def policy(self) -> RetentionPolicy:
        """Return the same as the value that `plan_retention` takes."""
        return RetentionPolicy(**dict(self))


class ScheduleSection(Table):
    """The schedule of the daemon; missed runs are caught up.

    Each is a time of day ("04:00"), a weekday and a time ("sun 05:00"), or a cron expression of five fields
    ("0 6 1 * *"; 0 and 7 are Sunday, L is the last day of the month).
    """

    timezone: kinds.TimeZone = Field(
        "UTC",
        description="IANA time zone of the times below, and of days in retention; default: TZ of the "
        "environment, else UTC.",
    )
    backup: kinds.When = Field("04:00", description="When to back up.")
    replicate: kinds.When = Field(
        "sun 05:00", description="When to send to replicas that have no schedule of their own."
    )
    drill: kinds.When = Field("0 6 1 * *", description="When to run a restore drill.")
    prune: kinds.When = Field("05:30", description="When to apply the retention policy, in addition to each backup.")
    scrub: kinds.When = Field("05:45", description="When to digest the generation with the oldest check again.")
    daily: kinds.When = Field(
        "07:00", description="When to send the daily ping; while unhealthy, later, as soon as healthy."
    )
    run_timeout_s: kinds.Seconds = Field(
        21600, gt=0, description="Seconds after which a scheduled run is stopped, and counts as failed."
    )


class HealthSection(Table):
    """How old the last backup, off-site copy and drill may be before /health turns red.

    Unset: the time between two runs of the schedule, and a twelfth of that (at least two hours) more.
    """

    backup_limit_s: kinds.Age | None = Field(
        None, description="Limit for verified backups, in seconds.", examples=[93600]
    )
    replicate_limit_s: kinds.Age | None = Field(
        None, description="Limit for off-site copies, in seconds.", examples=[655200]
    )
    drill_limit_s: kinds.Age | None = Field(
        None, description="Limit for restore drills, in seconds.", examples=[2901600]
    )


class SpaceSection(Table):
    """Free space that backups keep for the app."""

    reserve: kinds.Bytes | None = Field(
        None,
        description='Size to keep free, such as "512MiB"; unset: 5 % of the file system, at most 1 GiB.',
        examples=["512MiB"],
    )


class ShrinkGuardSection(Table):
    """Pruning is held while a source has lost more than this since its last verified generation."""

    enabled: bool = Field(
        default=True, description="Whether a new snapshot is compared with the last verified generation."
    )
    max_row_loss: kinds.Fraction = Field(0.5, description="Share of the rows of one table (0 to 1) that may be lost.")
    max_size_loss: kinds.Fraction = Field(0.5, description="Share of the size (0 to 1) that may be lost.")
    min_rows: kinds.Count = Field(100, description="Tables that had fewer rows than this are not compared row by row.")


class LockSection(Table):
    """The lock that allows one run at a time in a store."""

    timeout_s: kinds.Seconds = Field(60, description="Seconds to wait for the lock.")


class PackSection(Table):
    """Compression of archives."""

    level: kinds.Level | None = Field(
        None, description="1 (fast) to 12 (small); unset: 5, 6 or 7, by a sample of the data.", examples=[6]
    )
    priority: Literal["idle", "normal"] = Field(
        "idle",
        description='"idle" packs and checks only on idle cores; "normal" competes for them.',
    )
    nice: kinds.Nice = Field(10, description="Nice value of packing and checking, 0 to 19.")
    io_priority: Literal["idle", "normal"] = Field(
        "idle", description='"idle" lets packing and checking read the disk only when it is idle.'
    )
    workers: kinds.Workers | None = Field(None, description="Cores to use; unset: all.", examples=[2])


class ReplicaSection(Table):
    """A replica: a store that copies are sent to. The name is free to choose."""

    url: kinds.Url = Field(
        description="Its URL: a directory for each app; backupd creates the last part.",
        examples=["sftp://backup@nas:22/backups/my-app"],
    )
    host_key: kinds.Text | None = Field(
        None, description="The server's public key.", examples=["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI..."]
    )
    known_hosts: kinds.FilePath | None = Field(
        None, description="File with the server's public key, instead.", examples=["/etc/backupd/known_hosts"]
    )
    username: kinds.Text | None = Field(None, description="User name of the account.", examples=["backup"])
    password: kinds.Secret | None = Field(None, description="Password of the account.", examples=["change me"])
    private_key: kinds.Secret | None = Field(
        None,
        description="Private key of the account, as text.",
        examples=["-----BEGIN OPENSSH PRIVATE KEY-----\n..."],
    )
    passphrase: kinds.Secret | None = Field(None, description="Passphrase of that key.", examples=["change me"])
    schedule: kinds.When | None = Field(
        None, description="When to send there; unset: schedule.replicate.", examples=["05:00"]
    )
    timeout_s: kinds.Seconds = Field(
        7200, gt=0, description="Seconds for which a lost connection is opened again before the run fails."
    )
    append_only: bool = Field(default=False, description="Never remove anything there.")
    verify: Literal["read-back", "remote-hash"] = Field(
        "read-back",
        description='How a copy over SFTP is verified: "read-back" fetches it again; "remote-hash" lets the server '
        "compute its SHA-256 where the account has a shell with sha256sum, and otherwise fetches it.",
    )
    retention: RetentionSection | None = Field(
        None, description="Which generations are kept there; without this section as in [retention]."
    )


class DrillSection(Table):
    """The restore drill, by schedule as soon as there is a replica or a key in this section.

    Each source is restored in isolation, verified, and compared with its manifest. The keys from place_at on check the
    app as well, on the restored copy: it is placed, the command is run, the URL is requested, migrations are checked.
    """

    from_: kinds.Text | None = Field(
        None,
        alias="from",
        description='The replica to restore from, or "local" for the directory of backups; unset: the first replica, '
        "else the directory of backups.",
        examples=["offsite"],
    )
    max_age_s: kinds.Age | None = Field(
        None,
        description="Highest age of the newest copy there, in seconds: a drill of a stale copy proves nothing. Unset: "
        "from the schedules of backups and replication, and the limits of [health].",
        examples=[748800],
    )
    source: kinds.Name | None = Field(
        None,
        description="The source whose app the keys below check; needed where there are several.",
        examples=["tasks"],
    )
    place_at: kinds.FilePath | None = Field(
        None,
        description="Where a second instance of the app expects its database. No file may exist there; the copy "
        "is removed afterwards.",
        examples=["/drill/tasks.db"],
    )
    command: kinds.CommandLine | None = Field(
        None,
        description="Must exit 0; its child processes may run until the end of the drill. BACKUPD_RESTORED_DATABASE "
        "is the path of the restored copy. It runs without a shell: use sh -c '...' for one.",
        examples=["/app/check"],
    )
    health_url: kinds.HttpUrl | None = Field(
        None,
        description="Must answer 200 once the copy is placed and the command has ended, and not before.",
        examples=["http://second-app:8000/health"],
    )
    user_version: kinds.Count | None = Field(
        None, description="Lowest PRAGMA user_version after the migrations.", examples=[1]
    )
    query: kinds.Text | None = Field(
        None,
        description="Instead, or as well: read-only SQL whose first value must be the answer.",
        examples=["SELECT max(version) FROM migrations"],
    )
    answer: kinds.Text | None = Field(None, description="That answer, as text.", examples=["42"])
    timeout_s: kinds.Seconds = Field(300, gt=0, description="Seconds for each of command, URL and query.")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.query is None) != (self.answer is None):
            raise ValueError("query and answer go together: set both, or neither")
        if self.health_url is not None and self.place_at is None and self.command is None:
            raise ValueError(
                "health_url needs place_at or command: an app that was not given the restored copy proves nothing"
            )
        return self

    @property
    def proves_app(self) -> bool:
        """Whether anything but the copy itself is to be proven."""
        return any(
            value is not None for value in (self.place_at, self.command, self.health_url, self.user_version, self.query)
        )


class HttpSection(Table):
    """The daemon's health endpoint, metrics and status page."""

    listen: kinds.ListenAddress = Field("127.0.0.1:8080", description="HOST:PORT to listen on.")
    token: kinds.Secret | None = Field(
        None,
        description="Required by / and /metrics, as a bearer token or as the password of any user; without a token "
        "they answer on loopback only.",
        examples=["change me"],
    )


class NotifySection(Table):
    """Where the daemon sends notifications of problems and of their end."""

    urls: kinds.SecretUrls = Field(
        (),
        description="Apprise URLs (https://github.com/caronc/apprise/wiki); in the environment a JSON list, or "
        "separated by commas or spaces; a comma that no other URL follows is part of its URL.",
        examples=[["ntfy://my-topic"]],
    )
    name: kinds.Text | None = Field(
        None, description="Name of this backupd in messages; unset: its sources.", examples=["shop on server 3"]
    )
    digest: kinds.When | None = Field(
        None, description="When to send a summary, healthy or not; unset: never.", examples=["mon 08:00"]
    )


class AppSection(Table):
    """The app beside backupd: a message reports for each new version whether it is healthy.

    The version is the first of these that is set and found: version, version_file, version_header, version_field.
    """

    health_url: kinds.HttpUrl | None = Field(
        None, description="Answers 200 while the app is healthy.", examples=["http://srv-captain--my-app/health"]
    )
    version: kinds.Text | None = Field(None, description="The version, set by the deploy.", examples=["1.4.2"])
    version_file: kinds.FilePath | None = Field(
        None, description="A file that contains only the version.", examples=["/app/data/VERSION"]
    )
    version_header: kinds.Text | None = Field(
        None, description="Header of the answer that contains it.", examples=["X-App-Version"]
    )
    version_field: kinds.Text = Field(
        "version", description='Field of the JSON answer that contains it; "build.version" is a nested one.'
    )
    deploy_timeout_s: kinds.Seconds = Field(
        300, gt=0, description="Seconds after which a new version that is not healthy is reported as unhealthy."
    )
