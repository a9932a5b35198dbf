"""Directories and patterns of databases: which are found, how they are named, and what is set for one of them."""

import hashlib
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from backupd.config import Config, load_config
from backupd.config.known_databases import Named
from backupd.config.source_sets import Member, SourceSet, name_members
from backupd.errors import ConfigError
from backupd.model import is_source_name
from backupd.sqlite import discovery
from backupd.sqlite.discovery import MAX_DATABASES, Search
from support.command import Backupd

RAILS = ("production", "production_cache", "production_queue", "production_cable")
Load = Callable[..., Config]


def make_database(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as app:
        app.execute("CREATE TABLE task(id)")
    return path


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Load a configuration file, beside `data`, with backups in `store`."""

    def load_text(text: str, **environ: str) -> Config:
        file = tmp_path / "config.toml"
        file.write_text(f'backups_dir = "store"\n{text}')
        return load_config(file, environ, tmp_path)

    return load_text


def paths_of(config: Config, directory: Path) -> dict[str, str]:
    return {name: str(Path(source.path).relative_to(directory)) for name, source in config.sources.items()}


def found(
    *paths: str, name: str = "app", pattern: str = "", exclude: tuple[str, ...] = (), named: bool = True
) -> SourceSet:
    return SourceSet(Search(name, Path("/data"), pattern, exclude), named, frozenset(paths), "/data")


def names(sets: SourceSet | list[SourceSet], known: dict[str, str] | None = None, *taken: str) -> dict[str, str]:
    of_known = [Named(f"/data/{path}", name) for path, name in (known or {}).items()]
    members: dict[str, Member] = name_members(sets if isinstance(sets, list) else [sets], of_known, taken)
    assert all(map(is_source_name, members))
    assert len({name.lower() for name in members}) == len(members)
    return {name: str(at.path.relative_to("/data")) for name, at in members.items()}


def digest(path: str) -> str:
    return hashlib.sha256(path.encode()).hexdigest()[:6]


def test_only_database_has_name_of_section_or_of_its_file() -> None:
    assert names(found("deep/er/gitea.db")) == {"app": "deep/er/gitea.db"}
    assert names(found("deep/er/gitea.db", named=False)) == {"gitea": "deep/er/gitea.db"}


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("storage/production.sqlite3", "storage-production"),
        ("data.db", "data"),
        ("auxiliary.DB3", "auxiliary"),
        ("x.sqlite", "x"),
        ("noname", "noname"),
        ("a b/ü.db", "a-b--"),
        ("._-x.db", "x"),
        ("archive.tar", "archive.tar"),
        ("x.db.db", "x.db"),
    ],
)
def test_one_of_several_is_named_after_its_relative_path(path: str, name: str) -> None:
    assert names(found(path, "other.db"))[name] == path


@pytest.mark.parametrize("path", ["---.db", "日本.db", "x" * 90 + "/" + "y" * 90 + ".db"])
def test_path_that_gives_no_name_has_one_with_its_digest(path: str) -> None:
    (name,) = (name for name, at in names(found(path, "other.db")).items() if at == path)
    assert name.endswith(digest(path))


def test_two_that_would_have_one_name_are_told_apart_by_digest() -> None:
    assert names(found("a/b.db", "a-b.db", "A-B.sqlite")) == {
        "A-B": "A-B.sqlite",
        f"a-b-{digest('a-b.db')}": "a-b.db",
        f"a-b-{digest('a/b.db')}": "a/b.db",
    }


def test_one_with_generations_keeps_its_name_whatever_comes_beside_it() -> None:
    known = {"a/b.db": "a-b", "shop.db": "shop"}
    assert names(found("a-b.db", "a/b.db", "shop.db"), known) == {
        "a-b": "a/b.db",
        "shop": "shop.db",
        f"a-b-{digest('a-b.db')}": "a-b.db",
    }


def test_one_with_generations_keeps_its_name_when_all_others_are_gone() -> None:
    assert names(found("jobs/a.db"), {"jobs/a.db": "jobs-a"}) == {"jobs-a": "jobs/a.db"}
    assert names(found("jobs/a.db", named=False), {"jobs/a.db": "jobs-a"}) == {"jobs-a": "jobs/a.db"}


def test_name_of_a_single_source_is_not_taken_even_from_generations() -> None:
    assert names(found("tasks.db", "x.db"), {"tasks.db": "tasks"}, "Tasks") == {
        f"tasks-{digest('tasks.db')}": "tasks.db",
        "x": "x.db",
    }


def test_vanished_one_with_generations_stays_unless_excluded_or_outside_of_pattern() -> None:
    known = {"gone.db": "gone", "there.db": "there"}
    assert names(found("there.db"), known) == {"gone": "gone.db", "there": "there.db"}
    assert names(found("there.db", exclude=("gone.db",)), known) == {"there": "there.db"}
    assert names(found("there.db", pattern="t*"), known) == {"there": "there.db"}
    assert names(found(), {"gone.db": "gone"}, "x") == {"gone": "gone.db"}


def test_set_that_has_found_nothing_is_a_source_itself() -> None:
    assert names(found()) == {"app": "."}
    assert names(found(pattern="*.db")) == {"app": "*.db"}


def test_more_databases_than_limit_leave_the_known_ones_and_the_set_itself() -> None:
    many = [f"{number}.db" for number in range(MAX_DATABASES + 1)]
    assert names(found(*many), {"7.db": "seven"}) == {"seven": "7.db", "app": "."}
    assert len(names(found(*many[:-1]))) == MAX_DATABASES


def test_database_of_two_sets_belongs_to_the_first() -> None:
    sets = [found("a.db", "b.db"), found("a.db", name="rest")]
    assert names(sets) == {"a": "a.db", "b": "b.db"}


def test_rails_databases_are_found_by_pattern(load: Load, tmp_path: Path) -> None:
    for name in RAILS:
        make_database(tmp_path / "data" / "storage" / f"{name}.sqlite3")
    make_database(tmp_path / "data" / "storage" / "other.db")
    config = load('[sources.app]\npath = "data/**/*.sqlite3"\ntimeout_s = 7\nexclude = ["*_cache.sqlite3"]\n')
    assert paths_of(config, tmp_path / "data") == {
        "storage-production": "storage/production.sqlite3",
        "storage-production_cable": "storage/production_cable.sqlite3",
        "storage-production_queue": "storage/production_queue.sqlite3",
    }
    assert {source.timeout_s for source in config.sources.values()} == {7}


def test_directory_alone_in_the_environment_has_all_its_databases(tmp_path: Path) -> None:
    for name in ("data.db", "auxiliary.db"):  # as PocketBase has
        make_database(tmp_path / "pb_data" / name)
    config = load_config(None, {"BACKUPD_DATABASE": f"{tmp_path}/pb_data"}, tmp_path)
    assert paths_of(config, tmp_path / "pb_data") == {"auxiliary": "auxiliary.db", "data": "data.db"}
    assert config.backups_dir == tmp_path / "pb_data" / "backups"


def test_pattern_in_the_environment_is_searched_and_excludes_apply(tmp_path: Path) -> None:
    for name in ("a.db", "b.db", "x/c.db"):
        make_database(tmp_path / "data" / name)
    environ = {"BACKUPD_DATABASE": f"{tmp_path}/data/*.db", "BACKUPD_SOURCES__DATA__EXCLUDE": "b.*, x"}
    config = load_config(None, environ, tmp_path)
    assert paths_of(config, tmp_path / "data") == {"a": "a.db"}
    assert config.backups_dir == tmp_path / "data" / "backups"


def test_key_of_one_database_of_a_set_is_set_by_its_name(load: Load, tmp_path: Path) -> None:
    for name in ("a/Main.db", "b.db"):
        make_database(tmp_path / "data" / name)
    config = load(
        '[sources.app]\npath = "data"\nmethod = "vacuum"\n[sources.b]\nmethod = "backup"\n',
        BACKUPD_SOURCES__A_MAIN__ALLOW_EMPTY="true",
    )
    assert [*config.sources] == ["a-Main", "b"]
    assert config.sources["a-Main"].method == "vacuum"
    assert config.sources["a-Main"].allow_empty
    assert config.sources["b"].method == "backup"


def test_section_of_no_database_is_refused_with_those_that_were_found(load: Load, tmp_path: Path) -> None:
    make_database(tmp_path / "data" / "a.db")
    with pytest.raises(ConfigError, match=r"config.toml:4: sources.b: has no path, and no database .* \(found: app"):
        load('[sources.app]\npath = "data"\n[sources.b]\nmethod = "backup"\n')


def test_names_of_databases_that_are_not_there_yet_are_no_errors_and_reported(backupd: Backupd, database: Path) -> None:
    environ = {
        "BACKUPD_DATABASE": str(database.parent),
        "BACKUPD_PINGS__BACKUP_JOBS": "http://127.0.0.1:1/x",
        "BACKUPD_FILES__UPLOADS__PATH": str(database.parent / "uploads"),
        "BACKUPD_FILES__UPLOADS__WITH": "jobs",
        "BACKUPD_DRILL__SOURCE": "jobs",
        "BACKUPD_DRILL__COMMAND": "true",
    }
    assert backupd("config", "check", **environ).code == 0
    doctor = backupd("doctor", **environ).out
    assert "no database was found for pings.backup_jobs, files.uploads.with" in doctor
    assert "drill.source: unknown source 'jobs'; known sources: tasks" in doctor
    del environ["BACKUPD_FILES__UPLOADS__WITH"]
    make_database(database.with_name("notes.db"))
    several = {**environ, "BACKUPD_FILES__UPLOADS__QUERY": "SELECT path FROM files"}
    assert "no database was found for pings.backup_jobs, files.uploads.with" in backupd("doctor", **several).out
    assert backupd("config", "check", **environ, BACKUPD_PINGS__BAKUP_JOBS="http://127.0.0.1:1/x").code == 78
    single = {**environ, "BACKUPD_DATABASE": str(database)}
    assert backupd("config", "check", **single).code == 78


def test_drill_of_the_app_fails_with_the_way_out_once_there_are_several_databases(
    backupd: Backupd, database: Path
) -> None:
    make_database(database.with_name("jobs.db"))
    there = {"BACKUPD_DATABASE": str(database.parent), "BACKUPD_DRILL__COMMAND": "true"}
    assert backupd("backup", **there).code == 0
    answer = backupd("drill", **there)
    assert answer.code == 78
    assert "drill.source: is required, because there are several sources: jobs, tasks" in answer.err
    assert "BACKUPD_DRILL__SOURCE" in answer.err
    assert backupd("drill", **there, BACKUPD_DRILL__SOURCE="tasks").code == 0


def test_exclude_of_a_single_file_is_refused(load: Load, tmp_path: Path) -> None:
    make_database(tmp_path / "data" / "a.db")
    with pytest.raises(ConfigError, match=r"config.toml:4: sources.a.exclude: is for a directory or a pattern"):
        load('[sources.a]\npath = "data/a.db"\nexclude = ["x"]\n')


def test_wrong_key_of_a_set_is_reported_once_and_where_it_was_set(load: Load, tmp_path: Path) -> None:
    for name in RAILS:
        make_database(tmp_path / "data" / f"{name}.sqlite3")
    with pytest.raises(ConfigError) as refused:
        load('[sources.app]\npath = "data"\ntimeout_s = 0\n')
    assert refused.value.message == f"{tmp_path}/config.toml:4: sources.app.timeout_s: must be more than 0, not 0"


def test_exclude_that_is_no_pattern_is_refused(load: Load, tmp_path: Path) -> None:
    make_database(tmp_path / "data" / "a.db")
    with pytest.raises(ConfigError, match=r"config.toml:4: sources.app.exclude.0: '../x' is not a pattern"):
        load('[sources.app]\npath = "data"\nexclude = ["../x"]\n')


@pytest.mark.parametrize("name", [b"\xff.db", b"${x}.db", b"user:secret@x.db", b"x.db ", b"a\nb.db"])
def test_planted_name_that_cannot_be_configured_costs_no_other_database(
    backupd: Backupd, database: Path, name: bytes
) -> None:
    with closing(sqlite3.connect(database.parent / "new")) as app:
        app.execute("CREATE TABLE task(id)")
    (database.parent / "new").rename(database.parent / os.fsdecode(name))
    answer = backupd("backup", BACKUPD_DATABASE=str(database.parent))
    assert "tasks: " in answer.out, answer
    if name == b"a\nb.db":
        assert answer.code == 0
        assert "a-b: published" in answer.out
    else:
        assert answer.code == 3
        assert "1 database with a name that cannot be used, such as " in answer.err


def test_path_with_wildcards_that_exists_is_that_file(load: Load, tmp_path: Path) -> None:
    make_database(tmp_path / "data" / "a[1].db")
    make_database(tmp_path / "data" / "a1.db")
    config = load('[sources.app]\npath = "data/a[1].db"\n')
    assert paths_of(config, tmp_path / "data") == {"app": "a[1].db"}


def test_databases_below_backups_drill_and_single_sources_are_no_members(tmp_path: Path) -> None:
    for name in ("a.db", "b.db", "own.db", "store/x.db", "drill/tasks.db"):
        make_database(tmp_path / "data" / name)
    config = load_config(
        None,
        {
            "BACKUPD_DATABASE": f"{tmp_path}/data",
            "BACKUPD_BACKUPS_DIR": f"{tmp_path}/data/store",
            "BACKUPD_SOURCES__SINGLE__PATH": f"{tmp_path}/data/own.db",
            "BACKUPD_DRILL__PLACE_AT": f"{tmp_path}/data/drill/tasks.db",
        },
        tmp_path,
    )
    assert paths_of(config, tmp_path / "data") == {"a": "a.db", "b": "b.db", "single": "own.db"}


def test_directory_with_too_many_names_is_backed_up_as_far_as_seen_with_a_warning(
    backupd: Backupd, database: Path
) -> None:
    (database.parent / "uploads").mkdir()
    for number in range(discovery.MAX_NAMES + 1):
        (database.parent / "uploads" / f"{number}").touch()
    there = {"BACKUPD_DATABASE": str(database.parent)}
    answer = backupd("backup", **there)
    assert answer.code == 3
    assert "tasks: degraded" in answer.out
    assert "more than 10000 files and directories" in answer.err
    assert "more than 10000 files and directories" in backupd("doctor", **there).out
    narrower = {"BACKUPD_DATABASE": f"{database.parent}/*.db"}
    assert backupd("backup", **narrower).code == 0


def test_later_search_finds_new_ones_and_drops_those_without_generations(tmp_path: Path) -> None:
    for name in ("a.db", "b.db"):
        make_database(tmp_path / "data" / name)
    sets = load_config(None, {"BACKUPD_DATABASE": f"{tmp_path}/data"}, tmp_path).source_sets
    assert sets is not None
    assert sets.again() is sets
    (tmp_path / "data" / "b.db").unlink()
    make_database(tmp_path / "data" / "x" / "c.db")
    assert [*sets.again().members] == ["a", "x-c"]
    assert sets.again().databases() == {tmp_path / "data" / "a.db", tmp_path / "data" / "x" / "c.db"}


def test_search_that_could_not_look_everywhere_drops_only_what_is_gone(tmp_path: Path) -> None:
    for name in ("a.db", "b.db", "1/c.db"):
        make_database(tmp_path / "data" / name)
    sets = load_config(None, {"BACKUPD_DATABASE": f"{tmp_path}/data"}, tmp_path).source_sets
    assert sets is not None
    (tmp_path / "data" / "2/3/4/5/6/7").mkdir(parents=True)  # deeper than a search goes
    (tmp_path / "data" / "1").rename(tmp_path / "data" / ".1")
    (tmp_path / "data" / "a.db").write_bytes(b"")
    assert [*sets.again().members] == ["a", "b"]


def test_directory_that_cannot_be_searched_now_keeps_its_databases(tmp_path: Path) -> None:
    make_database(tmp_path / "data" / "a.db")
    make_database(tmp_path / "data" / "b.db")
    sets = load_config(None, {"BACKUPD_DATABASE": f"{tmp_path}/data"}, tmp_path).source_sets
    assert sets is not None
    (tmp_path / "data").rename(tmp_path / "away")
    assert sets.again() is sets


def test_mapping_of_names_is_shown(backupd: Backupd, database: Path) -> None:
    make_database(database.parent / "storage" / "cache.sqlite3")
    there = {"BACKUPD_DATABASE": str(database.parent)}
    shown = backupd("config", "show", **there).out
    assert f"[sources.{database.parent.name}] path = {database.parent}: 2 databases" in shown
    assert f'[sources.storage-cache]\npath = "{database.parent}/storage/cache.sqlite3"' in shown
    assert "storage-cache = storage/cache.sqlite3, tasks = tasks.db" in backupd("doctor", **there).out
