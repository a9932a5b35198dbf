"""A process that takes few rights has those that setpriv(1) gives to a new one."""

import subprocess
import sys
from pathlib import Path

import pytest

from support.rights import Rights

pytestmark = [pytest.mark.root, pytest.mark.no_cover]

SHOW = """
import os, re
print(os.getgroups(), re.findall(r"^(?:Uid|Gid|Cap.*|NoNewPrivs):.*$", open("/proc/self/status").read(), re.MULTILINE))
print(os.listdir("/proc/self/fd"))
"""


@pytest.mark.parametrize(
    "rights",
    [Rights(), Rights(("setuid", "setgid")), Rights(("dac_read_search",), 2345, 1234), Rights(uid=1234, gid=5678)],
    ids=str,
)
def test_process_assumes_rights_that_setpriv_gives(rights: Rights) -> None:
    assumed = (
        f"import sys; sys.path.insert(0, sys.argv[1])\nfrom support.rights import Rights\n{rights}.assume()\n{SHOW}"
    )
    commands = (
        [*rights.command, "/usr/bin/python3", "-c", SHOW],
        [sys.executable, "-c", assumed, Path(__file__).parents[1]],
    )
    shown = [subprocess.run(each, capture_output=True, text=True, check=True).stdout for each in commands]
    assert shown[0] == shown[1] != ""
