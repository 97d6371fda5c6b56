"""How the C library asks the system for memory."""

import os
import pathlib
import platform
import sys

_TUNABLES = "GLIBC_TUNABLES"
_SETTING = "glibc.malloc.hugetlb=1"
_PAGES = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")


def restart_with_huge_pages() -> None:
    """Starts this program again with memory in pages of 2 MB, where that takes a setting.

    XLA on CPU frees a training step's arrays, hundreds of MB, and asks for them again at the next
    one. The system hands them out cleared, in pages of 4 KB, which takes up to a fifth of a small
    network's step. glibc (2.35 or later) asks for large pages if an environment variable says so
    when the program starts, and not otherwise. Elsewhere, and where the variable is set, nothing
    happens. To be called before anything else: what was done so far is done again.
    """
    tunables = os.environ.get(_TUNABLES, "")
    if "glibc.malloc.hugetlb" in tunables or not _wanted():
        return
    os.environ[_TUNABLES] = ":".join(filter(None, (tunables, _SETTING)))
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _wanted() -> bool:
    """Whether the system gives large pages to those who ask, and only to them."""
    library, version = platform.libc_ver()
    if library != "glibc" or tuple(map(int, version.split("."))) < (2, 35):
        return False
    try:
        return "[madvise]" in _PAGES.read_text()
    except OSError:
        return False
