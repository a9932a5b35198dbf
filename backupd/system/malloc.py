"""Keep memory that was freed: giving pages back and taking them anew costs more than what is done with them."""

import ctypes
import platform
from typing import Final

# mallopt(3), malloc.h of the GNU C library.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_LARGEST_BYTES: Final = 32 << 20  # what the library allows


def tune_malloc() -> None:
    """Let this process use buffers of some 100 KiB again and again, instead of asking the kernel for each.

    It keeps what it had at most at once. Where the C library is another, all stays as it is.
    """
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, _LARGEST_BYTES)
        library.mallopt(_M_TRIM_THRESHOLD, _LARGEST_BYTES)
