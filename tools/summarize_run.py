"""Runs a training command and writes a summary of its result.

    python tools/summarize_run.py OUT.json -- COMMAND...

The summary holds the command, the commit, the wall-clock and CPU time, the run's config and the
scores of its `report/metrics.json` (`summaries.summarize`). The command must name its `--workdir`,
which must be new, so that the time is that of the whole run.
"""

import json
import pathlib
import resource
import subprocess
import sys
import time

import summaries


def main(out: str, command: list[str]) -> None:
    """Runs the command and writes `out`.

    Raises:
        SystemExit: there is no new --workdir, or there are uncommitted changes.
        subprocess.CalledProcessError: the command failed; nothing is written.
    """
    workdir = next((c.partition("=")[2] for c in command if c.startswith("--workdir=")), "")
    if not workdir or pathlib.Path(workdir).exists():
        sys.exit(f"error: the command must name a new --workdir; it has {workdir!r}.")
    if subprocess.check_output(["git", "status", "--porcelain", "--untracked-files=no"]):
        sys.exit("error: there are uncommitted changes; commit them, a result names its commit.")
    commit = subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], text=True).strip()
    started = time.monotonic()
    subprocess.run(command, check=True)
    wall = time.monotonic() - started
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    run = pathlib.Path(workdir)
    report = {
        "command": " ".join(command),
        "commit": commit,
        "wall_seconds": round(wall, 1),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
        "config": json.loads((run / "config.json").read_text()),
        **json.loads((run / "report" / "metrics.json").read_text()),
    }
    summaries.write(pathlib.Path(out), summaries.summarize(report))
    print(f"{wall:.0f} s; summary in {out}")


if __name__ == "__main__":
    if sys.argv[2:3] != ["--"] or not sys.argv[3:]:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[3:])
