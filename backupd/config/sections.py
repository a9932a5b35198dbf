"""The sections of the schema: names, kinds, defaults and descriptions of their keys.

The docstring of a section and the description of a key become the text of `config.example.toml`.
"""

from datetime import timedelta
from typing import Literal, Self

from pydantic import BaseModel, ByteSize, ConfigDict, Field, model_validator

from backupd.config import kinds
from backupd.retention import RetentionPolicy


class Table(BaseModel):
    """A section, or the configuration as a whole: frozen, refuses unknown keys, and shows no value in an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class SourceSection(Table):
    """One SQLite database of the app, or several; the name becomes the first part of file names."""

    path: kinds.FilePath = Field(
        description="The live database file; or a directory or a pattern (/app/data/**/*.db): each database that is "
        "found there is a source, named after its path below the directory.",
        examples=["/app/data/tasks.db"],
    )
    exclude: kinds.Patterns = Field(
        (),
        description="Of a directory or a pattern: what is left out, by the rules of .gitignore: "
        '"cache.db" at any depth, "tmp/" a directory with all that is in it, "/old/*.db" from the directory on.',
        examples=[["cache.db", "tmp/"]],
    )
    method: Literal["backup", "vacuum"] = Field(
        "backup",
        description='"backup" copies page by page, byte for byte; "vacuum" then rewrites the checked copy '
        "without free pages (VACUUM INTO), which needs room for both.",
    )
    allow_empty: bool = Field(
        default=False,
        description="Accept an empty file, and a database that has lost all its tables, instead of failing.",
    )
    timeout_s: kinds.Seconds = Field(3600, gt=0, description="Seconds for one snapshot, in all.")
    busy_timeout_s: kinds.Seconds = Field(60, description="Seconds to wait for a lock that the app holds.")
    writer_budget_s: kinds.Seconds = Field(
        2.0,
        gt=0,
        description="Seconds for which one copy may block the app's writers where the database is in "
        "rollback-journal mode; WAL writers are never blocked.",
    )
    hot_journal: Literal["copy", "fail"] = Field(
        "copy",
        description='Where a crashed writer left a hot journal: "copy" database and journal and recover '
        'the copy, or "fail".',
    )
    hot_journal_wait_s: kinds.Seconds = Field(60, description="Seconds to wait for the app to recover a hot journal.")
    network_fs: Literal["refuse", "allow"] = Field(
        "refuse",
        description='"allow" accepts a database on NFS, SMB, a Docker Desktop share or another network file '
        "system, whose locks are not reliable.",
    )
    hard_link: Literal["refuse", "allow"] = Field(
        "refuse",
        description='"allow" accepts a database file with a second name (a hard link, or a mount of the file alone), '
        "beside which its journal may be.",
    )


class FilesSection(Table):
    """A directory of files beside the databases, such as uploads; its name becomes the first part of file names.

    Each content is stored once. It is a source as a database is: it has generations, holds and limits of its own.
    """

    path: kinds.FilePath = Field(
        description="The directory. Links in it are stored as links, and other mounts below it are not entered.",
        examples=["/app/data/uploads"],
    )
    exclude: kinds.Patterns = Field(
        (),
        description='What is left out, by the rules of .gitignore, relative to path: "*.tmp" at any depth, "cache/" a '
        'directory with all that is in it, "/thumbs/**/small" from path on; with commas in between, or a list.',
        examples=[["*.tmp", "cache/"]],
    )
    with_: kinds.Text | None = Field(
        None,
        alias="with",
        description="The source whose database belongs to the files; unset: the only one of [sources].",
        examples=["tasks"],
    )
    query: kinds.Text | None = Field(
        None,
        description="Read-only SQL for the copy of that database: the first column of each row is the path of a file "
        "that must be in the copy, relative to path or absolute.",
        examples=["SELECT path FROM attachments"],
    )
    timeout_s: kinds.Seconds = Field(3600, gt=0, description="Seconds for the copy of the files, in all.")


class RetentionSection(Table):
    """Which generations are kept; at least one rule is above zero. Pinned generations are kept as well.

    A duration is a number and its unit: "90min", "48h", "7d", "2w".
    """

    within: kinds.Span = Field(
        timedelta(hours=48),
        description="Keep all verified generations at most this much older than the newest one, and the one before "
        "them, so that every state of that time can be restored; 0: off.",
        examples=["48h"],
    )
    hourly: kinds.Count = Field(0, description="Keep the last verified generation of this many hours.")
    daily: kinds.Count = Field(7, description="Keep the last of this many days.")
    weekly: kinds.Count = Field(4, description="Keep the last of this many ISO weeks.")
    monthly: kinds.Count = Field(0, description="Keep the last of this many months.")
    yearly: kinds.Count = Field(0, description="Keep the last of this many years.")
    last: kinds.Count = Field(0, description="Keep this many of the newest generations.")

    @model_validator(mode="after")
    def _keeps_something(self) -> Self:
        if not any(value for _, value in self):
            raise ValueError("an empty policy is refused, because it would prune every generation: set a rule above 0")
        return self

    def policy(self) -> RetentionPolicy:
        """Return the value that `plan_retention` takes."""
        return RetentionPolicy(**dict(self))


class ScheduleSection(Table):
    """When the daemon runs each task; a missed time is caught up.

    Each is a time of day ("04:00"), a weekday with one ("sun 05:00"), or a cron expression of five fields
    ("0 6 1 * *"; 0 and 7 are Sunday, L is the last day of the month).
    """

    timezone: kinds.TimeZone = Field(
        "UTC",
        description="IANA time zone of these times, and of the days that retention counts; default: TZ of the "
        "environment, else UTC.",
    )
    backup: kinds.When = Field("04:00", description="When to back up.")
    replicate: kinds.When = Field("sun 05:00", description="When to replicate; a replica can have its own schedule.")
    drill: kinds.When = Field("0 6 1 * *", description="When to run the restore drill.")
    prune: kinds.When = Field("05:30", description="When to prune; each backup prunes too.")
    scrub: kinds.When = Field(
        "05:45", description="When to read back the generation with the oldest check, and some contents of files."
    )
    daily: kinds.When = Field("07:00", description="When to send the daily ping; it waits until everything is healthy.")
    run_timeout_s: kinds.Seconds = Field(
        21600, gt=0, description="Seconds after which a scheduled run is stopped and has failed."
    )


class HealthSection(Table):
    """Maximum age of the latest backup, off-site copy and drill; beyond it /health returns 503.

    Unset: the time between two runs of its schedule, plus a twelfth of it or two hours, whichever is more.
    """

    backup_limit_s: kinds.Age | None = Field(
        None, description="Of the latest verified backup, in seconds.", examples=[93600]
    )
    replicate_limit_s: kinds.Age | None = Field(None, description="Of the latest off-site copy.", examples=[655200])
    drill_limit_s: kinds.Age | None = Field(None, description="Of the latest restore drill.", examples=[2901600])


class LogSection(Table):
    """The log: `backup.log` beside the backups, and the standard output of `backupd serve`."""

    format: Literal["plain", "json"] = Field(
        "plain", description='Standard output of serve: "plain" lines for people, or "json" lines as in the file.'
    )
    max_size: kinds.Bytes = Field(
        ByteSize(10 << 20),
        description="Size at which backup.log becomes backup.log.1; 0 leaves rotation to logrotate.",
    )
    keep: kinds.OldFiles = Field(4, description="Number of old files to keep: backup.log.1, .2 and so on.")


class SpaceSection(Table):
    """Free space that backups leave to the app."""

    reserve: kinds.Bytes | None = Field(
        None,
        description='Size that stays free, such as "512MiB"; unset: 5 % of the file system, at most 1 GiB.',
        examples=["512MiB"],
    )


class ShrinkGuardSection(Table):
    """Pruning is held while a source has lost more than this since its latest verified generation."""

    enabled: bool = Field(default=True, description="Compare a new snapshot with the latest verified generation.")
    max_row_loss: kinds.Fraction = Field(0.5, description="Accepted loss of the rows of one table, 0 to 1.")
    max_size_loss: kinds.Fraction = Field(0.5, description="Accepted loss of size, 0 to 1.")
    min_rows: kinds.Count = Field(100, description="Rows of tables that had fewer rows than this are not compared.")


class LockSection(Table):
    """The lock that keeps two runs from changing one store at a time."""

    timeout_s: kinds.Seconds = Field(60, description="Seconds to wait for the run that holds it.")


class PackSection(Table):
    """Compression of archives."""

    level: kinds.Level | None = Field(
        None, description="1 (fast) to 12 (small); unset: 5, 6 or 7, by a sample of the data.", examples=[6]
    )
    priority: Literal["idle", "normal"] = Field(
        "idle",
        description='"idle" compresses and verifies only on cores that are otherwise idle; "normal" competes for them.',
    )
    nice: kinds.Nice = Field(10, description="Nice value of compression and verification, 0 to 19.")
    io_priority: Literal["idle", "normal"] = Field(
        "idle", description='"idle" compresses and verifies only while the disk is otherwise idle.'
    )
    workers: kinds.Workers | None = Field(None, description="Cores to use; unset: all.", examples=[2])


class ReplicaSection(Table):
    """A store to replicate to; the operator chooses its name."""

    url: kinds.ReplicaUrl = Field(
        description="Its location: a directory for this app alone. backupd creates its last part.",
        examples=["sftp://backup@nas:22/backups/my-app"],
    )
    host_key: kinds.Text | None = Field(
        None, description="The server's public key.", examples=["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI..."]
    )
    known_hosts: kinds.FilePath | None = Field(
        None, description="File with the server's public key instead.", examples=["/etc/backupd/known_hosts"]
    )
    username: kinds.Text | None = Field(None, description="Account on the server.", examples=["backup"])
    password: kinds.Secret | None = Field(None, description="Password of the account.", examples=["change me"])
    private_key: kinds.Secret | None = Field(
        None, description="Private key of the account, as text.", examples=["-----BEGIN OPENSSH PRIVATE KEY-----\n..."]
    )
    passphrase: kinds.Secret | None = Field(None, description="Passphrase of private_key.", examples=["change me"])
    schedule: kinds.When | None = Field(
        None, description="When to replicate to it; unset: schedule.replicate.", examples=["05:00"]
    )
    timeout_s: kinds.Seconds = Field(
        7200, gt=0, description="Seconds for which a lost connection is retried before the run fails."
    )
    append_only: bool = Field(default=False, description="Never remove anything from it.")
    verify: Literal["read-back", "remote-hash"] = Field(
        "read-back",
        description='How a copy over SFTP is verified: "read-back" reads it again; "remote-hash" makes the server '
        "compute its SHA-256 where the account has a shell with sha256sum, and otherwise reads it again.",
    )
    retention: RetentionSection | None = Field(
        None, description="Which generations are kept on this replica; without this section the rules of [retention]."
    )


class DrillSection(Table):
    """The restore drill, scheduled as soon as a replica or a key of this section is set.

    Each source is restored to a private directory, verified, and compared with its manifest. The keys from place_at on
    check the app on the restored copy as well: place it, run a command, request a URL, check the migrations.
    """

    from_: kinds.Text | None = Field(
        None,
        alias="from",
        description='The replica to restore from, or "local" for backups_dir; unset: the first replica, else '
        "backups_dir.",
        examples=["offsite"],
    )
    max_age_s: kinds.Age | None = Field(
        None,
        description="Maximum age of the newest copy, in seconds; a drill of an older copy fails. Unset: the limit of "
        "[health] for backups, plus the limit for off-site copies where it restores from a replica.",
        examples=[748800],
    )
    source: kinds.Name | None = Field(
        None, description="The source whose app is checked; required where there are several.", examples=["tasks"]
    )
    place_at: kinds.FilePath | None = Field(
        None,
        description="Where a second instance of the app expects its database; must be free, the drill cleans it up.",
        examples=["/drill/tasks.db"],
    )
    command: kinds.CommandLine | None = Field(
        None,
        description="A command that must exit with 0; its child processes are stopped at the end of the drill. "
        "BACKUPD_RESTORED_DATABASE is the path of the restored copy. It runs without a shell: sh -c '...' starts one.",
        examples=["/app/check"],
    )
    health_url: kinds.HttpUrl | None = Field(
        None,
        description="A URL that must return 200 once the copy is placed and the command has ended, and not before.",
        examples=["http://second-app:8000/health"],
    )
    user_version: kinds.Count | None = Field(
        None, description="Minimum PRAGMA user_version at the end, which shows that migrations ran.", examples=[1]
    )
    query: kinds.Text | None = Field(
        None,
        description="Read-only SQL whose first value must be `answer` at the end.",
        examples=["SELECT max(version) FROM migrations"],
    )
    answer: kinds.Text | None = Field(None, description="The expected value of `query`, as text.", examples=["42"])
    timeout_s: kinds.Seconds = Field(
        300, gt=0, description="Seconds for the command, for the URL and for the query, each."
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.query is None) != (self.answer is None):
            raise ValueError("query and answer belong together: set both, or neither")
        if self.health_url is not None and self.place_at is None and self.command is None:
            raise ValueError("health_url needs place_at or command, which give the restored copy to the app")
        return self

    @property
    def checks_app(self) -> bool:
        """Whether the drill checks more than the copy itself."""
        return any(
            value is not None for value in (self.place_at, self.command, self.health_url, self.user_version, self.query)
        )


class HooksSection(Table):
    """What to call around each backup, to flush the app or to make it pause, for example (docs/hooks.md).

    Each is a command or a URL. A command runs without a shell, with BACKUPD_SOURCE, BACKUPD_GENERATION and
    BACKUPD_OUTCOME in its environment; a URL gets the same facts as JSON (POST), in another container too.
    """

    before: kinds.Hook | None = Field(
        None,
        description="Before the first copy. If it fails, nothing is copied and the backup has failed; exit code 75 "
        "(of a URL: 503 or 429) means that now is not the time, and the daemon tries again later.",
        examples=["http://srv-captain--my-app/backup/before"],
    )
    after: kinds.Hook | None = Field(
        None,
        description="After the last copy is published, and also where the backup or `before` failed.",
        examples=["sh -c 'rm -f /app/data/maintenance'"],
    )
    timeout_s: kinds.Seconds = Field(60, gt=0, description="Seconds for each; then it has failed, and is stopped.")

    @property
    def urls(self) -> tuple[str, ...]:
        """Those that are URLs."""
        return tuple(hook for hook in (self.before, self.after) if hook is not None and kinds.is_web(hook))


class HttpSection(Table):
    """The daemon's health endpoint, metrics and status page, and requests for backups."""

    listen: kinds.ListenAddress = Field("127.0.0.1:8080", description="HOST:PORT to listen on.")
    token: kinds.Token | None = Field(
        None,
        description="Required by /, /api/status and /metrics, as a bearer token or as the password of any user; "
        "at least 16 characters. Unset: they answer on loopback only.",
        examples=["change me: openssl rand -hex 24"],
    )
    actions: bool = Field(
        default=False,
        description="Accept requests for backups over HTTP (POST /api/backups), before a deploy for example. "
        "Needs backup_token.",
    )
    backup_token: kinds.Token | None = Field(
        None,
        description="Allows to request backups and to see how these end, and nothing else; as a bearer token, from "
        "any host.",
        examples=["change me as well: openssl rand -hex 24"],
    )
    download_token: kinds.Token | None = Field(
        None,
        description="Allows to download archives of verified generations, which contain all data of the app, and "
        "nothing else; as a bearer token, where actions are accepted. Unset: no archive can be downloaded.",
        examples=["a third one: openssl rand -hex 24"],
    )

    @model_validator(mode="after")
    def _tokens_differ(self) -> Self:
        if self.actions and self.backup_token is None:
            raise ValueError("actions = true needs backup_token: openssl rand -hex 24 makes one")
        given = [token for token in (self.token, self.backup_token, self.download_token) if token is not None]
        if len({token.get_secret_value() for token in given}) < len(given):
            raise ValueError("token, backup_token and download_token must differ, since each allows something else")
        return self


class NotifySection(Table):
    """Where the daemon sends notifications of problems and of their end."""

    urls: kinds.SecretUrls = Field(
        (),
        description="Apprise URLs (https://github.com/caronc/apprise/wiki); in the environment a JSON list, or "
        "separated by commas or spaces; a comma that no other URL follows belongs to its URL.",
        examples=[["ntfy://my-topic"]],
    )
    name: kinds.Text | None = Field(
        None,
        description="Name of this backupd in messages and on its page; unset: its sources.",
        examples=["shop on server 3"],
    )
    digest: kinds.When | None = Field(
        None, description="When to send a summary, healthy or not; unset: never.", examples=["mon 08:00"]
    )


class AppSection(Table):
    """The app itself: a notification reports whether each new version is healthy.

    The version comes from the first of these that is set and found: version, version_file, version_header,
    version_field.
    """

    health_url: kinds.HttpUrl | None = Field(
        None,
        description="A URL that returns 200 while the app is healthy.",
        examples=["http://srv-captain--my-app/health"],
    )
    version: kinds.Text | None = Field(None, description="The version, set by the deployment.", examples=["1.4.2"])
    version_file: kinds.FilePath | None = Field(
        None, description="A file that contains only the version.", examples=["/app/data/VERSION"]
    )
    version_header: kinds.Text | None = Field(
        None, description="Response header that contains the version.", examples=["X-App-Version"]
    )
    version_field: kinds.Text = Field(
        "version", description='JSON field of the response that contains the version; "build.version" is a nested one.'
    )
    deploy_timeout_s: kinds.Seconds = Field(
        300, gt=0, description="Seconds after which a new version that is not healthy is reported."
    )
