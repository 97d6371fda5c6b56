"""Runs a training command and keeps its result: `python docs/record.py OUT.json -- COMMAND…`.

The JSON holds the command, the commit, the time on the clock and on the CPUs, the run's settings
and all of its `report/metrics.json`. The command must name its `--workdir`, which must be new, so
that the time is that of the whole run.
"""

import json
import pathlib
import resource
import subprocess
import sys
import time

from wbc_jax.utils import atomic


def main(out: str, command: list[str]) -> None:
    workdir = next((c.partition("=")[2] for c in command if c.startswith("--workdir=")), "")
    if not workdir or pathlib.Path(workdir).exists():
        sys.exit(f"error: the command must name a new --workdir; it has {workdir!r}.")
    if subprocess.check_output(["git", "status", "--porcelain", "--untracked-files=no"]):
        sys.exit("error: there are changes that are not committed; a result needs its commit.")
    commit = subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], text=True).strip()
    started = time.monotonic()
    subprocess.run(command, check=True)
    wall = time.monotonic() - started
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    run = pathlib.Path(workdir)
    kept = {
        "command": " ".join(command),
        "commit": commit,
        "wall_seconds": round(wall, 1),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
        "config": json.loads((run / "config.json").read_text()),
        **json.loads((run / "report" / "metrics.json").read_text()),
    }
    atomic.write_json(pathlib.Path(out), kept)
    print(f"{wall:.0f} s; result in {out}")


if __name__ == "__main__":
    if sys.argv[2:3] != ["--"] or not sys.argv[3:]:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[3:])
