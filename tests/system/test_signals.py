"""A signal ends a process of backupd at any point."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

# The signal comes in a destructor, where Python drops whatever is raised.
PROGRAM = """
import signal, time
from backupd.system.signals import exit_on_signals
class Last:
    def __del__(self):
        signal.raise_signal(NUMBER)
exit_on_signals()
last = Last()
del last
try:
    time.sleep(60)
finally:
    print("cleaned up")
"""


@pytest.mark.no_cover
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_during_destructor_still_ends_process(number: signal.Signals) -> None:
    program = PROGRAM.replace("NUMBER", str(int(number)))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode in {128 + number, -number}, done.stdout) == (True, "cleaned up\n"), done
    assert "ignored" not in done.stderr


@pytest.mark.no_cover
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGHUP, 0), (signal.SIGTERM, 143)])
def test_signal_ignored_by_parent_stays_ignored_except_sigterm(number: signal.Signals, code: int) -> None:
    program = (
        "import signal; from backupd.system.signals import exit_on_signals; exit_on_signals(); "
        f"signal.raise_signal({int(number)}); print('goes on')"
    )
    command = ["sh", "-c", "trap '' INT HUP TERM; exec \"$@\"", "sh", sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (code, "" if code else "goes on\n")


# The signal comes while the catalog imports SQLAlchemy, of which the end of the run needs the whole.
IMPORTING = """
import sys
from pathlib import Path
from importlib.abc import MetaPathFinder
import signal
from backupd.catalog import open_catalog
from backupd.system.signals import exit_on_signals
class Stopping(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "sqlalchemy.sql.elements":
            signal.raise_signal(NUMBER)
exit_on_signals()
sys.meta_path.insert(0, Stopping())
try:
    open_catalog(Path(sys.argv[1]))
    print("went on")
finally:
    import sqlalchemy.orm
    print("recorded")
"""


@pytest.mark.no_cover
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_during_import_for_catalog_waits_for_its_end(number: signal.Signals, tmp_path: Path) -> None:
    command = [sys.executable, "-c", IMPORTING.replace("NUMBER", str(int(number))), str(tmp_path / "catalog.sqlite3")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode in {128 + number, -number}, done.stdout) == (True, "recorded\n"), done
