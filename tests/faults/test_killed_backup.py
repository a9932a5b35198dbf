"""A backup that is killed, at each of its steps and anywhere: nothing is lost, and the next run cleans up."""

import os
import random
import shutil
from pathlib import Path

from yards import Before, Yard, assert_heals, assert_no_processes, assert_unhurt

from support.bank import running_bank
from support.faults import Crew, Ended, at_every_step

ROWS = 200_000
KILLS = 15


def test_killed_before_any_of_its_steps_a_backup_loses_nothing_and_the_next_one_heals(
    template: Yard, forks: Crew, tmp_path: Path
) -> None:
    before = Before.of(template)

    def kill(at: int | None) -> Ended:
        yard = template.copy_to(tmp_path / f"killed-{at}")
        ended = forks.run(["backup", "--json"], yard.environ, at=at, counted=True)
        assert ended.code == (0 if at is None else -9), ended
        assert_unhurt(yard, before)
        assert_no_processes(yard)
        assert_heals(yard, forks)
        shutil.rmtree(yard.root)
        return ended

    steps = at_every_step(kill)
    assert any("rename" in step and "manifest.json" in step for step in steps)
    assert any("remove" in step and "sqlite3.gz" in step for step in steps)


def test_killed_at_any_instant_beside_an_app_that_writes_a_backup_loses_nothing_and_the_next_one_heals(
    forks: Crew, tmp_path: Path
) -> None:
    seed = int(os.environ.get("FAULTS_SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"FAULTS_SEED={seed}")
    chance = random.Random(seed)
    yard = Yard(tmp_path / "yard", rows=ROWS)
    yard.database.parent.mkdir(parents=True)
    with running_bank(yard.database, pause_s=0.001, rows=ROWS) as bank:
        for _ in range(yard.kept):
            bank.wait_for_commits(1)
            usual = forks.run(["backup", "--json"], yard.environ).json
        assert usual["snapshot_bytes"] > 25 << 20
        killed = 0
        while killed < KILLS:
            before = Before(yard.generations(), {})
            ended = forks.run(["backup"], yard.environ, after_s=chance.uniform(0, usual["duration_s"]))
            assert ended.code in (0, -9), ended
            killed += ended.code == -9
            assert_unhurt(yard, before)
            assert_no_processes(yard)
            bank.wait_for_commits(1)
            assert_heals(yard, forks, verify=killed == KILLS)
