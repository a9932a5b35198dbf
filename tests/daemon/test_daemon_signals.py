"""A signal stops the daemon at whatever instant it comes."""

import signal
import subprocess
import sys

import pytest

from support.command import Backupd
from support.daemon import running_daemon

pytestmark = pytest.mark.no_cover
# Sends itself NUMBER as it enters the wait of its main thread (or leaves it), with the lock of what it waits for.
AT_WAIT = """
import os, threading, backupd.daemon.daemon as daemon, backupd.__main__ as main
real = threading.Condition.wait
def wait(condition, timeout=None):
    if timeout != daemon._CHECK_EVERY_S or threading.current_thread() is not threading.main_thread():
        return real(condition, timeout)
    leaving = "WHEN" == "leaving" and real(condition, 0.1)
    os.kill(os.getpid(), NUMBER)
    return leaving or real(condition, timeout)
threading.Condition.wait = wait
main.main()
"""
# Sends itself a signal before the first instruction of a wait, in another wait before the second one, and so on.
AT_EACH_INSTRUCTION = """
import itertools, os, signal, sys, threading
from backupd.system.signals import StopSignals

def step(frame, event, _argument):
    global left
    if not frame.f_code.co_filename.endswith("threading.py"):
        return None
    frame.f_trace_opcodes = True
    if event == "opcode":
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGTERM)
    return step

for number in itertools.count(1):
    signals, left = StopSignals(exit_within_s=60), number
    signals.take_over()
    sys.settrace(step)
    signals.stop.wait(0.01)
    sys.settrace(None)
    if left > 0:
        break
    assert signals.stop.wait(30), number
    assert signals.came == [signal.SIGTERM], number
print(number)
os._exit(0)
"""
# Decides at once to restart, and sends itself a signal at the end of PART of what it does before.
RESTARTING = """
import os, signal, backupd.daemon.daemon as daemon, backupd.daemon.main as serving, backupd.__main__ as main
from backupd.daemon.notifier import Notifier
from backupd.daemon.task_queue import TaskQueues
from backupd.log import EventLog
daemon._CHECK_EVERY_S = 0.1
serving.OwnerHandover.ready = lambda handover: True
real = PART
def stop(*arguments):
    real(*arguments)
    os.kill(os.getpid(), signal.SIGTERM)
PART = stop
main.main()
"""


@pytest.mark.parametrize("when", ["entering", "leaving"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signal_while_main_thread_holds_lock_of_its_wait_stops_daemon(
    backupd: Backupd, number: signal.Signals, when: str
) -> None:
    program = AT_WAIT.replace("NUMBER", str(int(number))).replace("WHEN", when)
    with running_daemon(backupd, program=("-c", program)) as daemon:
        assert daemon.process.wait(30) == 0
    assert daemon.said().endswith("stopped\n")


def test_signal_at_each_instruction_of_wait_is_noticed() -> None:
    done = subprocess.run(
        [sys.executable, "-c", AT_EACH_INSTRUCTION], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 50, "it was hardly interrupted: this test tested nothing"


@pytest.mark.parametrize("part", ["TaskQueues.stop", "Notifier.stop", "EventLog.close"])
def test_signal_while_daemon_restarts_stops_it(backupd: Backupd, part: str) -> None:
    with running_daemon(backupd, program=("-c", RESTARTING.replace("PART", part))) as daemon:
        assert daemon.process.wait(30) == 0
    assert daemon.said().count("backs up tasks ") == 1
