"""Huge pages for the memory that XLA allocates anew in each step."""

import os
import pathlib
import platform
import sys

_TUNABLES = "GLIBC_TUNABLES"
_SETTING = "glibc.malloc.hugetlb=1"
_PAGES = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")


def restart_with_huge_pages() -> None:
    """Replaces this process by the same program with huge (2 MB) pages, where that takes a setting.

    XLA on a CPU frees a training step's arrays, hundreds of MB, and allocates them again in the
    next step. The kernel hands them out cleared, in pages of 4 KB, which takes up to a fifth of a
    small network's step. glibc (2.35 or later) asks for huge pages if the environment variable
    GLIBC_TUNABLES says so when the program starts, and at no other time; so this function sets the
    variable and calls `os.execv` with the same interpreter and arguments. It does nothing with
    other C libraries, where the kernel gives huge pages to all or to none, and where the variable
    names the setting already: `GLIBC_TUNABLES=glibc.malloc.hugetlb=0` switches it off.

    Only a program's entry point may call it, before anything else, as everything done before is
    done again; in wbc_jax that is `main.run`.
    """
    tunables = os.environ.get(_TUNABLES, "")
    if "glibc.malloc.hugetlb" in tunables or not _wanted():
        return
    os.environ[_TUNABLES] = ":".join(filter(None, (tunables, _SETTING)))
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _wanted() -> bool:
    """Returns whether the kernel gives huge pages to programs that ask, and only to them."""
    library, version = platform.libc_ver()
    if library != "glibc" or tuple(map(int, version.split("."))) < (2, 35):
        return False
    try:
        return "[madvise]" in _PAGES.read_text()
    except OSError:
        return False
