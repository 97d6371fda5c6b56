"""Fake `gcloud`, `srun` and other commands: they record their calls and answer as told."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]


def tool(name: str) -> str:
    """Returns the path of a program, preferably the one that pip installed beside this Python."""
    beside = pathlib.Path(sys.executable).parent / name
    return str(beside) if beside.exists() else shutil.which(name) or name


# Each call is a line of JSON in $FAKE_LOG. $FAKE_ANSWERS maps the first words of a command to a
# list of [status, output]: each call takes the next one, and the last one is repeated.
_FAKE = """#!{python}
import fcntl, json, os, sys

name, arguments = os.path.basename(sys.argv[0]), sys.argv[1:]
with open(os.environ["FAKE_LOG"], "a") as log:
    log.write(json.dumps([name, *arguments]) + chr(10))
with open(os.environ["FAKE_ANSWERS"], "r+") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    answers = json.load(file)
    line, status, output = " ".join([name, *arguments]), 0, ""
    for words, queue in answers.items():
        if line.startswith(words):
            status, output = queue.pop(0) if len(queue) > 1 else queue[0]
            break
    file.seek(0)
    file.truncate()
    json.dump(answers, file)
print(output, end="")
sys.exit(status)
"""


class Fakes:
    """A PATH of fake commands.

    Args:
        folder: folder to put them in.
        names: names of the commands.
    """

    def __init__(self, folder: pathlib.Path, *names: str):
        self._folder, self._bin = folder, folder / "bin"
        self._bin.mkdir(parents=True)
        for name in names:
            self.add(name, _FAKE.format(python=sys.executable))

    def add(self, name: str, text: str) -> None:
        """Puts a script with this text on the PATH."""
        (self._bin / name).write_text(text)
        (self._bin / name).chmod(0o755)

    def run(
        self, *command: str, answers: dict | None = None, **environment: str
    ) -> subprocess.CompletedProcess:
        """Runs a command with the fakes on its PATH."""
        log, answered = self._folder / "log", self._folder / "answers"
        log.unlink(missing_ok=True)
        answered.write_text(json.dumps(answers or {}))
        kept = {
            k: v
            for k, v in os.environ.items()
            if not k.startswith(("SLURM_", "TPU_", "WBC_JAX_", "CLOUDSDK_"))
        }
        return subprocess.run(
            command,
            cwd=self._folder,
            env=kept
            | {
                "PATH": f"{self._bin}:{os.environ['PATH']}",
                "FAKE_LOG": str(log),
                "FAKE_ANSWERS": str(answered),
            }
            | environment,
            capture_output=True,
            text=True,
            timeout=120,
        )

    @property
    def calls(self) -> list[list[str]]:
        """The calls made during the last `run`, each with name and arguments."""
        log = self._folder / "log"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
