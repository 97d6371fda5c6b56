"""wbc_jax.cpu.huge_pages restarts a program once, with its arguments; it then uses fewer pages."""

import os
import subprocess
import sys

import pytest

from wbc_jax.cpu import huge_pages

_PROGRAM = """
import os, resource, sys
from wbc_jax.cpu import huge_pages

huge_pages.restart_with_huge_pages()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
block = bytearray(1 << 28)
print(sys.argv[1:], resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(path, **variables):
    path.write_text(_PROGRAM)
    environment = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"} | variables
    command = [sys.executable, "-X", "utf8", str(path), "two words", "--flag=ä"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    (line,) = done.stdout.splitlines()
    arguments, _, pages = line.rpartition(" ")
    assert arguments == "['two words', '--flag=ä']"
    return int(pages)


@pytest.mark.skipif(
    not huge_pages._wanted(), reason="the kernel does not give huge pages to programs that ask"
)
def test_restarts_with_huge_pages(tmp_path):
    small = run(tmp_path / "program.py", GLIBC_TUNABLES="glibc.malloc.hugetlb=0")
    assert small >= (1 << 28) // 4096
    other = run(tmp_path / "program.py", GLIBC_TUNABLES="glibc.malloc.check=0")
    assert max(other, run(tmp_path / "program.py")) < small / 20


@pytest.mark.parametrize(
    ("library", "pages", "wanted"),
    [
        (("glibc", "2.35"), "always [madvise] never", True),
        (("glibc", "2.36"), "[always] madvise never", False),
        (("glibc", "2.31"), "always [madvise] never", False),
        (("", ""), "always [madvise] never", False),
        (("glibc", "2.36"), None, False),
    ],
)
def test_only_where_it_helps(monkeypatch, tmp_path, library, pages, wanted):
    path = tmp_path / "enabled"
    if pages is not None:
        path.write_text(pages)
    monkeypatch.setattr(huge_pages, "_PAGES", path)
    monkeypatch.setattr(huge_pages.platform, "libc_ver", lambda: library)
    assert huge_pages._wanted() == wanted
