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
        "without free pages (VACUUM INTO), which needs room for both.",
    )
    allow_empty: bool = Field(
        default=False,
        description="Accept an empty file, and a database that has lost all its tables, instead of failing.",
    )
    timeout_s: kinds.Seconds = Field(3600, gt=0, description="Seconds that a whole snapshot may take.")
    busy_timeout_s: kinds.Seconds = Field(60, description="Seconds to wait for a lock that the app holds.")
    writer_budget_s: kinds.Seconds = Field(
        2.0,
        gt=0,
        description="Seconds that one pinned copy may hold up the app's writers where the database is in "
        "rollback-journal mode; WAL writers are never held up.",
    )
    hot_journal: Literal["copy", "fail"] = Field(
        "copy",
        description='Where a crashed writer left a journal behind: "copy" database and journal and recover '
        'the copy, or "fail".',
    )
    hot_journal_wait_s: kinds.Seconds = Field(
        60, description="Seconds to wait for the app to recover such a journal by itself."
    )
    network_fs: Literal["refuse", "allow"] = Field(
        "refuse",
        description='"allow" accepts a database on NFS, SMB, a share of Docker Desktop and the like, where locks '
        "cannot be trusted.",
    )
    hard_link: Literal["refuse", "allow"] = Field(
        "refuse",
        description='"allow" accepts a database file with a second name (a hard link, or a mount of the file alone at '
        "another place), beside which its journal may stand.",
    )


class RetentionSection(Table):
    """Which generations stay; these are never all zero. What is pinned stays beside them.

    A span of time is a number and its unit: "90min", "48h", "7d", "2w".
    """

    within: kinds.Span = Field(
        timedelta(hours=48),
        description="All verified generations stay that are at most this much older than the newest one, and the one "
        "before them, so that every state of that time can be restored; 0: none for its age.",
        examples=["48h"],
    )
    hourly: kinds.Count = Field(0, description="Newest hours with a verified generation; the last one of each stays.")
    daily: kinds.Count = Field(7, description="Days, likewise.")
    weekly: kinds.Count = Field(4, description="ISO weeks, likewise.")
    monthly: kinds.Count = Field(0, description="Months, likewise.")
    yearly: kinds.Count = Field(0, description="Years, likewise.")
    last: kinds.Count = Field(0, description="Newest generations that stay, whatever their day.")

    @model_validator(mode="after")
    def _keeps_something(self) -> Self:
        if not any(value for _, value in self):
            raise ValueError("an empty policy is refused: it would remove every generation; keep at least one")
        return self

    def policy(self) -> RetentionPolicy:
        """Return the same as the value that `plan_retention` takes."""
        return RetentionPolicy(**dict(self))


class ScheduleSection(Table):
    """When the daemon does what; a time that was missed is caught up.

    Each is a time of day ("04:00"), a weekday with one ("sun 05:00"), or a cron expression of five fields
    ("0 6 1 * *"; 0 and 7 are Sunday, L is the last day of the month).
    """

    timezone: kinds.TimeZone = Field(
        "UTC",
        description="IANA time zone of the times below, and of the days that retention counts; default: that of the "
        "environment's TZ, else UTC.",
    )
    backup: kinds.When = Field("04:00", description="When to back up.")
    replicate: kinds.When = Field("sun 05:00", description="When to send to replicas without a schedule of their own.")
    drill: kinds.When = Field("0 6 1 * *", description="When to rehearse a restore.")
    prune: kinds.When = Field("05:30", description="When to apply the retention policy, beside after each backup.")
    scrub: kinds.When = Field(
        "05:45", description="When to digest anew the generation that was left unchecked for longest."
    )
    daily: kinds.When = Field(
        "07:00", description="When to send the daily ping; later, once all is well, where it is not well then."
    )
    run_timeout_s: kinds.Seconds = Field(
        21600, gt=0, description="Seconds after which a run by schedule is stopped, and counts as failed."
    )


class HealthSection(Table):
    """How old the last proof of each kind may be before /health turns red.

    Unset: as long as lies between two times of its schedule, and a twelfth of that (two hours at least) more.
    """

    backup_limit_s: kinds.Age | None = Field(None, description="Of a verified backup.", examples=[93600])
    replicate_limit_s: kinds.Age | None = Field(None, description="Of an off-site copy.", examples=[655200])
    drill_limit_s: kinds.Age | None = Field(None, description="Of a proven restore.", examples=[2901600])


class SpaceSection(Table):
    """Free space that backups leave to the app."""

    reserve: kinds.Bytes | None = Field(
        None,
        description='Size that stays free, such as "512MiB"; unset: 5 % of the file system, at most 1 GiB.',
        examples=["512MiB"],
    )


class ShrinkGuardSection(Table):
    """Nothing is pruned while a source has lost more than this since its last good generation."""

    enabled: bool = Field(default=True, description="Whether a new snapshot is compared with the last good generation.")
    max_row_loss: kinds.Fraction = Field(0.5, description="Share of the rows of one table (0 to 1) that may go.")
    max_size_loss: kinds.Fraction = Field(0.5, description="Share of the size (0 to 1) that may go.")
    min_rows: kinds.Count = Field(100, description="Tables that had fewer rows than this are not compared row by row.")


class LockSection(Table):
    """The lock that keeps two runs from working on one store."""

    timeout_s: kinds.Seconds = Field(60, description="Seconds to wait for a run that holds it.")


class PackSection(Table):
    """Compression of archives."""

    level: kinds.Level | None = Field(
        None, description="1 (fast) to 12 (small); unset: 5, 6 or 7, by a sample of the data.", examples=[6]
    )
    priority: Literal["idle", "normal"] = Field(
        "idle",
        description='"idle" packs and checks only on cores that nobody else wants; "normal" takes its share.',
    )
    nice: kinds.Nice = Field(10, description="Nice value of packing and checking, 0 to 19.")
    io_priority: Literal["idle", "normal"] = Field(
        "idle", description='"idle" lets packing and checking read the disk only when nobody else wants it.'
    )
    workers: kinds.Workers | None = Field(None, description="Cores to use; unset: all.", examples=[2])


class ReplicaSection(Table):
    """A store that copies are sent to, by its name."""

    url: kinds.Url = Field(
        description="Where it is: a directory for each app, whose last part backupd makes.",
        examples=["sftp://backup@nas:22/backups/my-app"],
    )
    host_key: kinds.Text | None = Field(
        None, description="The server's public key.", examples=["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI..."]
    )
    known_hosts: kinds.FilePath | None = Field(
        None, description="File with the server's public key, instead.", examples=["/etc/backupd/known_hosts"]
    )
    username: kinds.Text | None = Field(None, description="Account there.", examples=["backup"])
    password: kinds.Secret | None = Field(None, description="Its password.", examples=["change me"])
    private_key: kinds.Secret | None = Field(
        None,
        description="The key to log in with, as text.",
        examples=["-----BEGIN OPENSSH PRIVATE KEY-----\n..."],
    )
    passphrase: kinds.Secret | None = Field(None, description="Opens that key.", examples=["change me"])
    schedule: kinds.When | None = Field(
        None, description="When to send there; unset: as schedule.replicate says.", examples=["05:00"]
    )
    timeout_s: kinds.Seconds = Field(
        7200, gt=0, description="Seconds for which a lost connection is made again before the run fails."
    )
    append_only: bool = Field(default=False, description="Never remove anything there.")
    verify: Literal["read-back", "remote-hash"] = Field(
        "read-back",
        description='How a copy over SFTP is proven: "read-back" fetches it again; "remote-hash" has the server '
        "compute its SHA-256, where the account has a shell with sha256sum, and else fetches it too.",
    )
    retention: RetentionSection | None = Field(
        None, description="How many generations stay there; without this section as many as here."
    )


class DrillSection(Table):
    """The rehearsal of a restore, by schedule as soon as there is a replica or a key here.

    Each source is restored in isolation, proven, and compared with its manifest. The keys from place_at on prove the
    app as well, on the restored copy: it is placed, the command is run, the URL is asked, the migrations are looked at.
    """

    from_: kinds.Text | None = Field(
        None,
        alias="from",
        description='The replica to restore from, or "local" for the directory of backups; unset: the first replica, '
        "and where there is none the directory of backups.",
        examples=["offsite"],
    )
    max_age_s: kinds.Age | None = Field(
        None,
        description="Seconds that the newest copy there may be old: a drill of a stale copy is no proof. Unset: as old "
        "as the schedules of backups and of replication let it become, and what [health] adds to them.",
        examples=[748800],
    )
    source: kinds.Name | None = Field(
        None,
        description="The source whose app is proven by the keys below; needed where there are several.",
        examples=["tasks"],
    )
    place_at: kinds.FilePath | None = Field(
        None,
        description="Where a second instance of the app expects its database. It must be free, and is cleaned up.",
        examples=["/drill/tasks.db"],
    )
    command: kinds.CommandLine | None = Field(
        None,
        description="Must end with 0; what it starts may live on until the end of the drill. BACKUPD_RESTORED_DATABASE "
        "is the path of the restored copy. There is no shell around it: sh -c '...' makes one.",
        examples=["/app/check"],
    )
    health_url: kinds.HttpUrl | None = Field(
        None,
        description="Must answer 200 once the copy is placed and the command has ended, and not before.",
        examples=["http://second-app:8000/health"],
    )
    user_version: kinds.Count | None = Field(
        None, description="PRAGMA user_version must be at least this then: the migrations applied.", examples=[1]
    )
    query: kinds.Text | None = Field(
        None,
        description="Instead, or as well: SQL whose first value must be the answer then; it can only read.",
        examples=["SELECT max(version) FROM migrations"],
    )
    answer: kinds.Text | None = Field(None, description="That answer, as text.", examples=["42"])
    timeout_s: kinds.Seconds = Field(
        300, gt=0, description="Seconds that the command, the URL and the query may take, each."
    )

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
        description="Asked for by / and /metrics, as a bearer token or as the password of any user; without one they "
        "answer on loopback only.",
        examples=["change me"],
    )


class NotifySection(Table):
    """Who hears of trouble and of its end, from the daemon."""

    urls: kinds.SecretUrls = Field(
        (),
        description="Apprise URLs (https://github.com/caronc/apprise/wiki); in the environment a JSON list, or with "
        "commas or spaces between; a comma that no other URL follows is part of its URL.",
        examples=[["ntfy://my-topic"]],
    )
    name: kinds.Text | None = Field(
        None, description="How a message calls this backupd; unset: by its sources.", examples=["shop on server 3"]
    )
    digest: kinds.When | None = Field(
        None, description="When to tell how everything stands, well or not; unset: never.", examples=["mon 08:00"]
    )


class AppSection(Table):
    """The app beside: a message tells whether each new version of it is well.

    Its version is taken from the first of these that is set and found: version, version_file, version_header,
    version_field.
    """

    health_url: kinds.HttpUrl | None = Field(
        None, description="Answers 200 while the app is well.", examples=["http://srv-captain--my-app/health"]
    )
    version: kinds.Text | None = Field(None, description="The version, told by the deploy itself.", examples=["1.4.2"])
    version_file: kinds.FilePath | None = Field(
        None, description="A file that holds nothing but the version.", examples=["/app/data/VERSION"]
    )
    version_header: kinds.Text | None = Field(
        None, description="Header of the answer that holds it.", examples=["X-App-Version"]
    )
    version_field: kinds.Text = Field(
        "version", description='Field of the JSON answer that holds it; "build.version" is one within another.'
    )
    deploy_timeout_s: kinds.Seconds = Field(
        300, gt=0, description="Seconds after which a new version that is not well counts as unhealthy."
    )
