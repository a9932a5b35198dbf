"""Lets the Python processes of a test run live on another day: all are shifted by the same TEST_CLOCK_OFFSET_S seconds.

`scripts/test --day` puts this directory on PYTHONPATH, where Python looks for `sitecustomize` at each start. The
monotonic clock and the time stamps of files stay as they are.
"""

import os
import sys
import time

# The processes that open databases know no calendar, and there are thousands of them.
if not any(argument.startswith("backupd.sqlite.worker") for argument in sys.orig_argv):
    import time_machine

    time_machine.travel(time.time() + float(os.environ["TEST_CLOCK_OFFSET_S"]), tick=True).start()
