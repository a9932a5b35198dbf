"""Background work has low priority, thread by thread, as shown by the tools of util-linux."""

import os
import subprocess
import threading

from backupd.system.resources import NORMAL, Priority, lower_priority


def seen_of_a_thread(priority: Priority) -> tuple[str, str, int]:
    """Return scheduling policy and I/O class of a thread that gave way, as `chrt` and `ionice` say, and its nice."""
    seen: list[str] = []
    nice: list[int] = []

    def work() -> None:
        lower_priority(priority)
        thread = str(threading.get_native_id())
        for tool in ("chrt", "ionice"):
            done = subprocess.run([tool, "-p", thread], capture_output=True, text=True, check=True)
            seen.append(done.stdout.splitlines()[0].split()[-1])
        nice.append(os.getpriority(os.PRIO_PROCESS, 0))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return seen[0], seen[1], nice[0]


def test_low_priority_thread_has_lowest_cpu_and_disk_priority() -> None:
    assert seen_of_a_thread(Priority(idle_cpu=True, nice=19, idle_io=True)) == ("SCHED_IDLE", "idle", 19)


def test_cpu_and_disk_priority_can_be_set_separately() -> None:
    before = os.getpriority(os.PRIO_PROCESS, 0)
    assert seen_of_a_thread(Priority(idle_io=True)) == ("SCHED_OTHER", "idle", before)
    assert seen_of_a_thread(Priority(idle_cpu=True))[0] == "SCHED_IDLE"
    policy, io_class, nice = seen_of_a_thread(Priority(nice=19))
    assert (policy, nice) == ("SCHED_OTHER", 19)
    assert io_class != "idle"


def test_only_calling_thread_is_lowered() -> None:
    before = os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0)
    seen_of_a_thread(Priority(idle_cpu=True, nice=19, idle_io=True))
    assert (os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0)) == before


def test_normal_priority_changes_nothing() -> None:
    before = os.getpriority(os.PRIO_PROCESS, 0)
    policy, io_class, nice = seen_of_a_thread(NORMAL)
    assert (policy, nice) == ("SCHED_OTHER", before)
    assert io_class != "idle"
