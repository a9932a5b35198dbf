"""What a process may do: as which user it runs, and with which of the capabilities of root (capabilities(7))."""

import ctypes
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass

_NUMBERS = {"chown": 0, "dac_override": 1, "dac_read_search": 2, "kill": 5, "setgid": 6, "setuid": 7}
# linux/prctl.h
_SET_DUMPABLE, _SET_KEEPCAPS, _CAPBSET_DROP, _CAP_AMBIENT, _AMBIENT_RAISE = 4, 8, 24, 47, 2
_CAPABILITY_VERSION = 0x20080522  # linux/capability.h
_NEW_MOUNTS = 0x00020000  # CLONE_NEWNS of sched.h
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Rights:
    """These of the capabilities of root; or those of user `uid` and group `gid`, and of no other group."""

    capabilities: tuple[str, ...] = ()
    uid: int = 0
    gid: int = 0

    @property
    def command(self) -> tuple[str, ...]:
        """The command setpriv(1) that starts another one with these rights."""
        kept = "".join(f",+{name}" for name in self.capabilities)
        limits = ("setpriv", f"--bounding-set=-all{kept}")
        if not self.uid:
            return (*limits, "--inh-caps=-all")
        who = (f"--reuid={self.uid}", f"--regid={self.gid}", "--clear-groups")
        return (*limits, *who, f"--inh-caps=-all{kept}", f"--ambient-caps=-all{kept}")

    def assume(self) -> None:
        """Give this process, which is root's, these rights: those that it would have after `command`."""
        numbers = [_NUMBERS[name] for name in self.capabilities]
        kept = sum(1 << number for number in numbers)
        for number in range(64):
            if not kept >> number & 1:
                _libc.prctl(_CAPBSET_DROP, number, 0, 0, 0)  # fails for numbers that this kernel does not have
        if self.uid:
            _call(_libc.prctl, _SET_KEEPCAPS, 1, 0, 0, 0)
            os.setgroups([])
            os.setresgid(self.gid, self.gid, self.gid)
            os.setresuid(self.uid, self.uid, self.uid)
            _call(_libc.prctl, _SET_KEEPCAPS, 0, 0, 0, 0)
        inherited = kept if self.uid else 0
        sets = (ctypes.c_uint32 * 6)(kept, kept, inherited)  # effective, permitted, inheritable; then the higher halves
        _call(_libc.capset, (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0), sets)
        for number in numbers if self.uid else ():
            _call(_libc.prctl, _CAP_AMBIENT, _AMBIENT_RAISE, number, 0, 0)
        as_after_execve()


def enter_mount_namespace() -> None:
    """Take this process to a mount namespace of its own, where mounts from outside are as they were."""
    _call(_libc.unshare, _NEW_MOUNTS)
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)


def as_after_execve() -> None:
    """Let this process look into its own files in /proc, which it may no more after it has changed its user."""
    _call(_libc.prctl, _SET_DUMPABLE, 1, 0, 0, 0)


def _call(function: Callable[..., int], *arguments: object) -> None:
    if function(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
