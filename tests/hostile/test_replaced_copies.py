"""A replica serves another database under the ID of a generation of this store: every command refuses it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from backupd.archive.manifest import decode_manifest, encode_manifest
from backupd.catalog import open_catalog
from backupd.log import open_log
from backupd.model import ARCHIVE_SUFFIX, MANIFEST_SUFFIX
from backupd.stores.local import DirectoryStore
from backupd.tasks.backup import backup
from backupd.tasks.context import TaskContext
from backupd.tasks.doctor.replica import check_replica
from backupd.tasks.requests import BackupRequest
from support.bank import make_bank
from support.command import Backupd
from support.generations import backdated, manifest_of
from support.in_process import run_here
from support.replicas import REPLICATE_ALL, over_sftp
from support.sshd import Sshd

pytestmark = pytest.mark.no_cover

Forge = Callable[[str, str], None]


@pytest.fixture
def there(tmp_path: Path) -> Path:
    return tmp_path / "there"


@pytest.fixture
def environ(backupd: Backupd, sshd: Sshd, there: Path, older: str) -> dict[str, str]:
    """The environment of a store whose generations are at a replica over SFTP."""
    assert older
    found = {
        **backupd.environ,
        "BACKUPD_REPLICAS__OFFSITE__URL": f"sftp://{sshd.user}@127.0.0.1:{sshd.port}{there}",
        "BACKUPD_REPLICAS__OFFSITE__HOST_KEY": sshd.host_key(),
        "BACKUPD_REPLICAS__OFFSITE__PRIVATE_KEY_FILE": str(sshd.key),
    }
    assert run_here(found, "replicate").code == 0
    return found


@pytest.fixture
def forge(there: Path, tmp_path: Path) -> Forge:
    """What replaces a copy at the replica by one of another database, sealed and sound, by a store of that name."""

    def replaced(generation: str, store: str) -> None:
        true = decode_manifest((there / f"{generation}{MANIFEST_SUFFIX}").read_bytes(), generation)
        elsewhere = TaskContext(DirectoryStore("local", tmp_path / "elsewhere"), open_log(tmp_path / "other.log"))
        make_bank(tmp_path / "evil.db", rows=7)
        made = backup(BackupRequest("tasks", tmp_path / "evil.db", reserve_bytes=0), elsewhere).generation
        assert made is not None
        false = manifest_of(elsewhere, made)
        false = replace(false, id=true.id, taken_at=true.taken_at, store=store or true.store, origin=true.origin)
        archive = elsewhere.store.archive_path(made).read_bytes()
        (there / f"{generation}{ARCHIVE_SUFFIX}").write_bytes(archive)
        (there / f"{generation}{MANIFEST_SUFFIX}").write_bytes(encode_manifest(false))
        elsewhere.log.close()

    return replaced


def lying_in(files: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in files.glob("tasks-*")}


def assert_refused_by_all(environ: dict[str, str], newest: str, older: str, tmp_path: Path) -> None:
    target = tmp_path / "restored.db"
    row = run_here(environ, "list", "--store", "offsite", "--json").json[0]
    assert (row["id"], row["verification"]) == (newest, "corrupt")
    assert (
        f"{newest} at offsite is not the copy that this store has made"
        in run_here(environ, "list", "--store", "offsite").err
    )
    for command in (("verify", "--all"), ("verify", newest)):
        verified = run_here(environ, *command, "--store", "offsite", "--json")
        sound = {check["id"]: check["sound"] for check in verified.json}
        assert (verified.code, sound[newest], sound.get(older, True)) == (1, False, True), verified
    for wanted in ((newest,), ("latest",), ("--at", "2999-01-01")):
        restored = run_here(environ, "restore", *wanted, "--from", "offsite", "--to", target)
        assert (restored.code, newest in restored.err, target.exists()) == (1, True, False), restored
        assert "--adopt" not in restored.err
    drilled = run_here(environ, "drill", "--from", "offsite", "--json")
    assert (drilled.code, newest in drilled.json[0]["error"]) == (1, True), drilled
    accepted = run_here(environ, "restore", "latest", "--from", "offsite", "--to", target, "--accept-older", "--json")
    assert (accepted.code, accepted.json["generation"]) == (3, older), accepted


@pytest.mark.parametrize("store", ["", "f" * 16], ids=["claims to be ours", "claims another store"])
def test_copy_with_other_digest_than_local_manifest_is_refused_by_every_command(
    environ: dict[str, str], forge: Forge, newest: str, older: str, there: Path, tmp_path: Path, store: str
) -> None:
    forge(newest, store)
    before = lying_in(there)
    assert_refused_by_all(environ, newest, older, tmp_path)
    replicated = run_here(environ, "replicate")
    assert (replicated.code, newest in replicated.err) == (1, True), replicated
    assert lying_in(there) == before


@pytest.mark.parametrize("memory", ["catalog", "runs", "rebuilt"])
def test_copy_of_generation_pruned_here_is_compared_with_catalog(
    environ: dict[str, str],
    forge: Forge,
    context: TaskContext,
    newest: str,
    older: str,
    there: Path,
    tmp_path: Path,
    memory: str,
) -> None:
    forge(newest, "")
    before = lying_in(there)
    backdated(context.store.directory, newest, days=2)  # the store still has the source
    assert run_here(environ, "remove", newest, "--force").code == 0
    if memory == "runs":
        with open_catalog(context.catalog_path) as catalog:
            catalog.remove_copy(newest, "offsite")
    if memory == "rebuilt":
        assert run_here(environ, "catalog", "rebuild").code == 0
    assert_refused_by_all(environ, newest, older, tmp_path)
    replicated = run_here(environ, "replicate")
    assert (replicated.code, newest in replicated.err) == (1, True), replicated
    assert before.items() <= lying_in(there).items()


def test_doctor_finds_replaced_copy(
    environ: dict[str, str], forge: Forge, context: TaskContext, sshd: Sshd, newest: str, there: Path
) -> None:
    assert environ
    forge(newest, "")
    found = list(check_replica(REPLICATE_ALL, over_sftp(sshd, there, context), context))[-1]
    assert (found.ok, newest in found.detail) == (False, True), found


def test_machine_without_its_store_restores_copies_without_digest_comparison(
    environ: dict[str, str], newest: str, tmp_path: Path
) -> None:
    empty = {**environ, "BACKUPD_BACKUPS_DIR": str(tmp_path / "empty")}
    answer = run_here(empty, "restore", "latest", "--from", "offsite", "--to", tmp_path / "restored.db", "--json")
    assert (answer.code, answer.json["generation"]) == (0, newest), answer
