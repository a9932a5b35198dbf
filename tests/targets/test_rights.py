"""A fork with few rights has those that setpriv(1) gives to a new process."""

import os
import subprocess
import sys

import pytest

from support.rights import Rights

pytestmark = [pytest.mark.root, pytest.mark.no_cover]

SHOW = """
import os, re
print(os.getgroups(), re.findall(r"^(?:Uid|Gid|Cap.*|NoNewPrivs):.*$", open("/proc/self/status").read(), re.MULTILINE))
os.listdir("/proc/self/fd")
"""


@pytest.mark.parametrize(
    "rights",
    [Rights(), Rights(("setuid", "setgid")), Rights(("dac_read_search",), 2345, 1234), Rights(uid=1234, gid=5678)],
    ids=str,
)
def test_fork_gets_rights_of_process_behind_setpriv(rights: Rights) -> None:
    real = subprocess.run([*rights.command, "/usr/bin/python3", "-c", SHOW], capture_output=True, text=True, check=True)
    reader, writer = os.pipe()
    fork = os.fork()
    if not fork:
        try:
            sys.stdout = os.fdopen(writer, "w")
            rights.assume()
            exec(SHOW)
            sys.stdout.flush()
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader) as shown:
        assert shown.read() == real.stdout
    assert os.waitpid(fork, 0)[1] == 0
