"""Runs `wbc_jax.main` as several processes on this machine, as a cluster would.

python -m launch.local -n 4 -- --config=configs/unet.py --workdir=runs/local4

The arguments after `--` are those of `wbc_jax.main`. Each line of output begins with the number of
its process. If a process dies, the others are stopped. Then all start again, up to `--max_restarts`
times, and continue from the last checkpoint. SIGTERM and SIGINT are passed on; all processes then
save and exit.

On CPU the processes share the cores; with `--platform=cuda` each has its own GPU.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import BinaryIO

from wbc_jax.parallel.environment import COORDINATOR, NUM_PROCESSES, PROCESS_ID

GRACE_SECONDS = 10
"""Time for the other processes to report why they end, after one has died; then they are killed."""
_POLL_SECONDS = 0.1


def environment(
    index: int, count: int, port: int, platform: str, base: Mapping[str, str]
) -> dict[str, str]:
    """Returns the environment of process `index` of `count`, coordinated at `localhost:port`."""
    own = {
        COORDINATOR: f"localhost:{port}",
        NUM_PROCESSES: str(count),
        PROCESS_ID: str(index),
        "JAX_PLATFORMS": platform,
        "PYTHONUNBUFFERED": "1",
    }
    if platform == "cuda":
        own["CUDA_VISIBLE_DEVICES"] = str(index)
    return {**base, **own}


def run(
    count: int,
    arguments: Sequence[str],
    max_restarts: int = 0,
    grace_seconds: float = GRACE_SECONDS,
    platform: str = "cpu",
) -> int:
    """Runs the processes until they end, and again if one dies.

    Args:
        count: number of processes.
        arguments: arguments of `wbc_jax.main`.
        max_restarts: largest number of restarts.
        grace_seconds: see `GRACE_SECONDS`.
        platform: `cpu` or `cuda`.

    Returns:
        The exit status: 0, or 128 + the number of the signal after which all have saved, or the
        status of the process that died first.
    """
    with _Signals() as signals:
        for attempt in range(max_restarts + 1):
            group = _Group(count, arguments, platform)
            failed = group.watch(signals, grace_seconds)
            if failed is None:
                return 0
            if signals.received:
                return 128 + signals.received
            _say(f"{failed}: all processes are stopped.")
            if attempt < max_restarts:
                _say(
                    f"Starting all {count} again from the last checkpoint "
                    f"(restart {attempt + 1} of {max_restarts})."
                )
        return group.status


def free_port() -> int:
    """Returns a free port."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


class _Group:
    """The processes of one attempt."""

    def __init__(self, count: int, arguments: Sequence[str], platform: str):
        port = free_port()
        self.status = 0
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-m", "wbc_jax.main", *arguments],
                env=environment(index, count, port, platform, os.environ),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that Ctrl-C reaches it only through us
            )
            for index in range(count)
        ]
        self._readers = [
            threading.Thread(target=_print_lines, args=(index, process.stdout), daemon=True)
            for index, process in enumerate(self._processes)
        ]
        for reader in self._readers:
            reader.start()

    def watch(self, signals: "_Signals", grace_seconds: float) -> str | None:
        """Waits until all have ended; returns None on success, else a text on the first failure."""
        failed, deadline, told = None, float("inf"), 0
        try:
            while any(process.poll() is None for process in self._processes):
                if signals.received != told:
                    told = signals.received
                    self._send(told)
                if failed is None:
                    failed = self._first_failure()
                    deadline = time.monotonic() + grace_seconds if failed else deadline
                    if failed:
                        _say(f"{failed}; the others have {grace_seconds:g} s to end.")
                if time.monotonic() > deadline and not signals.received:
                    self._send(signal.SIGKILL)
                time.sleep(_POLL_SECONDS)
        finally:
            self._send(signal.SIGKILL)
            for process, reader in zip(self._processes, self._readers):
                process.wait()
                reader.join()
        return failed or self._first_failure()

    def _first_failure(self) -> str | None:
        for index, process in enumerate(self._processes):
            code = process.poll()
            if code:
                self.status = code if code > 0 else 128 - code
                how = f"ended with status {code}" if code > 0 else f"was ended by {_name(-code)}"
                return f"process {index} of {len(self._processes)} (pid {process.pid}) {how}"
        return None

    def _send(self, number: int) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(number)


class _Signals:
    """Records SIGTERM and SIGINT."""

    def __init__(self):
        self.received = 0

    def __enter__(self) -> "_Signals":
        numbers = (signal.SIGTERM, signal.SIGINT)
        self._old = {number: signal.signal(number, self._record) for number in numbers}
        return self

    def _record(self, number: int, _) -> None:
        self.received = number

    def __exit__(self, *_) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)


def _print_lines(index: int, stream: BinaryIO) -> None:
    for line in stream:
        sys.stdout.write(f"[{index}] {line.decode(errors='replace').rstrip()}\n")
        sys.stdout.flush()


def _say(text: str) -> None:
    print(f"launch.local: {text}", file=sys.stderr, flush=True)


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m launch.local",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-n", "--processes", type=int, required=True, help="number of processes")
    parser.add_argument("--max_restarts", type=int, default=0, help="restarts after a process died")
    parser.add_argument("--grace_seconds", type=float, default=GRACE_SECONDS)
    parser.add_argument("--platform", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "arguments", nargs="*", metavar="-- ARGUMENTS", help="arguments of wbc_jax.main"
    )
    given = parser.parse_args(argv)
    for name, least in (("processes", 1), ("max_restarts", 0), ("grace_seconds", 0)):
        if getattr(given, name) < least:
            parser.error(f"--{name} is {getattr(given, name)}; it must be at least {least}")
    return run(
        given.processes,
        given.arguments,
        given.max_restarts,
        given.grace_seconds,
        given.platform,
    )


if __name__ == "__main__":
    sys.exit(main())
