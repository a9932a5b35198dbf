"""The section of the deploy gate: one app, and what its commits pass through before they are deployed."""

from typing import Self

from pydantic import Field, model_validator

from backupd.config import kinds
from backupd.config.sections import Table


class GateSection(Table):
    """The gate of one app, for `backupd gate`: a push that its webhook reports is deployed by CapRover.

    Before that the data is backed up and the commit tested; after it the app must come up with the new version. A step
    whose keys are unset is left out.
    """

    secret: kinds.Token = Field(
        description="Signs the requests of the webhook: the same text as Secret in Forgejo; at least 16 characters.",
        examples=["change me: openssl rand -hex 24"],
    )
    repository: kinds.RepositoryName = Field(
        description="The repository whose pushes are accepted, OWNER/NAME.", examples=["me/tasks"]
    )
    refs: kinds.RefPatterns = Field(
        description="Which branches and tags are deployed, as full names; * and ? stand for any characters but '/'. "
        "In the environment separated by commas or spaces.",
        examples=[["refs/heads/main", "refs/tags/v*"]],
    )
    sidecar_url: kinds.ServerUrl | None = Field(
        None,
        description="Address of the daemon that backs up before each deploy; it needs [http] actions.",
        examples=["http://srv-captain--my-app-backup:8080"],
    )
    backup_token: kinds.Token | None = Field(
        None, description="Its http.backup_token.", examples=["change me: openssl rand -hex 24"]
    )
    sources: kinds.NameList = Field((), description="The sources to back up; unset: all.", examples=[["tasks"]])
    download_token: kinds.Token | None = Field(
        None, description="Its http.download_token, for rehearse.", examples=["change me: openssl rand -hex 24"]
    )
    forgejo_url: kinds.ServerUrl | None = Field(
        None,
        description="Address of Forgejo or Gitea, which has the commit and shows the result beside it.",
        examples=["https://git.example.com"],
    )
    forgejo_token: kinds.Secret | None = Field(
        None,
        description="An access token for the repository: read its contents, read and write commit statuses.",
        examples=["change me: 40 hexadecimal digits"],
    )
    test_command: kinds.CommandLine | None = Field(
        None,
        description="A command that must exit with 0, run in the files of the commit by test_user with an empty "
        "environment. It runs without a shell: sh -c '...' starts one.",
        examples=["sh -c 'npm ci && npm test'"],
    )
    test_timeout_s: kinds.Seconds = Field(900, gt=0, description="Seconds after which the tests have failed.")
    test_user: kinds.OtherUser = Field(
        64000, description="User and group id that run the tests; a number that owns no files."
    )
    rehearse: bool = Field(
        default=False,
        description="Give the tests a fresh copy of the last verified backup: BACKUPD_RESTORED_DATABASE is its path.",
    )
    wait_for_status: bool = Field(
        default=False, description="Wait until the other checks of the commit (CI) have succeeded in Forgejo."
    )
    status_contexts: kinds.TextList = Field(
        (),
        description="Names of the checks to wait for, with * and ?; unset, with wait_for_status: all but the gate's. "
        "In the environment separated by commas.",
        examples=[["ci / test*"]],
    )
    status_timeout_s: kinds.Seconds = Field(3600, gt=0, description="Seconds to wait for them.")
    caprover_url: kinds.ServerUrl | None = Field(
        None,
        description="Address of CapRover, which gets exactly the tested files.",
        examples=["https://captain.example.com"],
    )
    caprover_app: kinds.Text | None = Field(None, description="Name of the app there.", examples=["my-app"])
    caprover_token: kinds.Secret | None = Field(
        None, description="App token (Deployment, Enable App Token).", examples=["change me"]
    )
    caprover_webhook: kinds.SecretHttpUrl | None = Field(
        None,
        description="CapRover's own webhook instead of the three above: it builds the branch as it is then, which may "
        "be newer than what was tested.",
        examples=["https://captain.example.com/api/v2/user/apps/webhooks/triggerbuild?namespace=captain&token=..."],
    )
    health_url: kinds.HttpUrl | None = Field(
        None,
        description="A URL that returns 200 while the app is healthy, asked after the delivery.",
        examples=["http://srv-captain--my-app/health"],
    )
    version_field: kinds.Text = Field(
        "version",
        description='JSON field of the response that contains the commit or the tag; "build.version" is a nested one.',
    )
    deploy_timeout_s: kinds.Seconds = Field(
        300, gt=0, description="Seconds in which the app must be healthy and report the new version."
    )
    page_url: kinds.ServerUrl | None = Field(
        None,
        description="Address at which people reach the page of the gate; the status of a commit links to it.",
        examples=["https://gate.example.com"],
    )

    @property
    def waits_for_status(self) -> bool:
        """Whether other checks of the commit must have succeeded."""
        return self.wait_for_status or bool(self.status_contexts)

    @model_validator(mode="after")
    def _has_one_target(self) -> Self:
        of_app = {
            "caprover_url": self.caprover_url,
            "caprover_app": self.caprover_app,
            "caprover_token": self.caprover_token,
        }
        missing = [name for name, value in of_app.items() if value is None]
        if self.caprover_webhook is not None and len(missing) < len(of_app):
            raise ValueError("has two targets: set caprover_webhook, or caprover_url, caprover_app and caprover_token")
        if self.caprover_webhook is None and len(missing) == len(of_app):
            raise ValueError("has no target: set caprover_url, caprover_app and caprover_token")
        if self.caprover_webhook is None and missing:
            raise ValueError(f"{' and '.join(missing)} must be set too: CapRover needs address, app and token")
        if self.caprover_webhook is not None and any(ref.startswith("refs/tags/") for ref in self.refs):
            raise ValueError(
                "refs: caprover_webhook builds a branch, never a tag (and takes refs/tags/vmain for the branch main): "
                "deploy tags by caprover_url, caprover_app and caprover_token"
            )
        return self

    @model_validator(mode="after")
    def _keys_belong_together(self) -> Self:
        if (self.sidecar_url is None) != (self.backup_token is None):
            raise ValueError("sidecar_url and backup_token belong together: set both, or neither")
        set_keys = {
            "sources": bool(self.sources),
            "download_token": self.download_token is not None,
            "forgejo_token": self.forgejo_token is not None,
            "test_command": self.test_command is not None,
            "rehearse": self.rehearse,
            "wait_for_status": self.waits_for_status,
            "caprover_token": self.caprover_token is not None,
            "sidecar_url": self.sidecar_url is not None,
            "forgejo_url": self.forgejo_url is not None,
        }
        for name, needed, why in _NEEDS:
            if set_keys[name] and not set_keys[needed]:
                raise ValueError(f"{name} needs {needed}, {why}")
        return self


_NEEDS = (
    ("sources", "sidecar_url", "which backs them up"),
    ("download_token", "sidecar_url", "which has the backups"),
    ("forgejo_token", "forgejo_url", "to which it is sent"),
    ("test_command", "forgejo_url", "from which the commit is fetched"),
    ("wait_for_status", "forgejo_url", "which has the statuses"),
    ("caprover_token", "forgejo_url", "from which the commit is fetched"),
    ("rehearse", "test_command", "which gets the copy"),
    ("rehearse", "sidecar_url", "which has the backups"),
    ("rehearse", "download_token", "which allows the download"),
)
