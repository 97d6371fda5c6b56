"""launch/tpu_vm.sh with a fake gcloud: the exact calls, and the reaction to each answer."""

import json
import re
import shlex
import shutil
import subprocess

import pytest

from helpers import fakes

SCRIPT = str(fakes.ROOT / "launch" / "tpu_vm.sh")
SLICE = {
    "TPU_NAME": "wbc",
    "TPU_ZONE": "us-west4-a",
    "TPU_TYPE": "v5litepod-16",
    "TPU_RUNTIME": "v2-alpha-tpuv5-lite",
    "TPU_POLL_SECONDS": "0",
    "TPU_WHEEL": "/somewhere/wbc_jax-0.1.0-py3-none-any.whl",
}
QUEUED = ["gcloud", "compute", "tpus", "queued-resources"]
VM = ["gcloud", "compute", "tpus", "tpu-vm"]
ZONE = "--zone=us-west4-a"
STATE = [*QUEUED, "describe", "wbc", "--format=value(state.state)", ZONE]
CREATE = [
    *QUEUED, "create", "wbc", "--node-id=wbc", "--accelerator-type=v5litepod-16",
    "--runtime-version=v2-alpha-tpuv5-lite", ZONE,
]  # fmt: skip
DELETE = [*QUEUED, "delete", "wbc", "--force", "--quiet", ZONE]
SCP = [*VM, "scp", SLICE["TPU_WHEEL"], "wbc:", "--worker=all", ZONE]
RUN = ("run", "--config=configs/unet.py", "--workdir=gs://cells/run")
DESCRIBED, SSH = " ".join(STATE[:6]), " ".join([*VM, "ssh"])


@pytest.fixture
def gcloud(tmp_path):
    return fakes.Fakes(tmp_path, "gcloud")


def _kinds(gcloud):
    """Returns the calls, each as its verb, or as its purpose for `ssh`."""
    found = []
    for call in gcloud.calls:
        verb = call[4]
        if verb == "ssh":
            command = next(a for a in call if a.startswith("--command="))
            verb = "install" if "pip install" in command else "start"
        found.append(verb)
    return found


def test_create_waits_for_the_slice(gcloud):
    done = gcloud.run(
        SCRIPT, "create", **SLICE,
        answers={DESCRIBED: [[0, s] for s in ("ACCEPTED", "PROVISIONING", "ACTIVE")]},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert gcloud.calls == [CREATE, STATE, STATE, STATE]
    assert done.stderr.splitlines()[-1] == "slice wbc: ACTIVE"


def test_create_with_options(gcloud):
    options = {"TPU_SPOT": "1", "TPU_PROJECT": "p", "TPU_SERVICE_ACCOUNT": "a@p"}
    gcloud.run(SCRIPT, "create", **SLICE, **options, answers={DESCRIBED: [[0, "ACTIVE"]]})
    assert gcloud.calls[0] == [
        *CREATE[:-1], "--spot", "--service-account=a@p", ZONE, "--project=p",
    ]  # fmt: skip
    assert gcloud.calls[1] == [*STATE, "--project=p"]


@pytest.mark.parametrize("state", ["FAILED", "SUSPENDED"])
def test_create_that_fails(gcloud, state):
    done = gcloud.run(SCRIPT, "create", **SLICE, answers={DESCRIBED: [[0, state]]})
    assert done.returncode == 2
    assert "error: the slice wbc was not granted" in done.stderr


def test_install(gcloud):
    assert gcloud.run(SCRIPT, "install", **SLICE).returncode == 0
    copy, ssh = gcloud.calls
    assert copy == SCP
    assert ssh[:7] == [*VM, "ssh", "wbc", "--worker=all"] and ssh[8:] == [ZONE]
    command = ssh[7].removeprefix("--command=")
    assert "python3.11 -m venv ~/wbc_jax" in command
    assert "pip install --quiet 'wbc_jax-0.1.0-py3-none-any.whl[tpu,gcs]'" in command
    _check_shell(command)


def _check_shell(command):
    done = subprocess.run(
        [fakes.tool("shellcheck"), "--shell=bash", "--exclude=SC2016", "-"], input=command,
        capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "")


def test_install_builds_the_wheel(gcloud):
    gcloud.add(
        "python3",
        "#!/bin/sh\n"
        'for a; do case "$a" in --wheel-dir=*) touch "${a#*=}/wbc_jax-9-py3-none-any.whl";;'
        ' esac; done\necho "$@" > called\n',
    )
    done = gcloud.run(SCRIPT, "install", **{k: v for k, v in SLICE.items() if k != "TPU_WHEEL"})
    assert done.returncode == 0, done.stderr
    (copy, _) = gcloud.calls
    assert re.fullmatch(r"/.*/wbc_jax-9-py3-none-any\.whl", copy[5])


def test_run_that_ends(gcloud):
    assert gcloud.run(SCRIPT, *RUN, **SLICE).returncode == 0
    (call,) = gcloud.calls
    assert call[:7] == [*VM, "ssh", "wbc", "--worker=all"] and call[8:] == [ZONE]
    _check_shell(call[7].removeprefix("--command="))


# Minimal sudo and systemd-run.
_SUDO = '#!/bin/bash\necho "$@" >> "$HOME/sudo"\n[[ $1 == systemctl ]] || "$@"\n'
_SYSTEMD_RUN = '#!/bin/bash\nwhile [[ $1 == --* ]]; do shift; done\nexec "$@"\n'


@pytest.mark.parametrize("status, marked, ends", [(0, 0, 0), (143, 0, 143), (1, 0, 1), (1, 1, 130)])
def test_what_a_worker_does(gcloud, tmp_path, status, marked, ends):
    """The command for the workers, run here: arguments arrive intact, the status is passed on."""
    odd = "--config.data.datasets=a b'c\"$HOME"
    gcloud.run(SCRIPT, *RUN, odd, **SLICE)
    command = gcloud.calls[0][7].removeprefix("--command=")
    home = tmp_path / "home"
    (home / "wbc_jax" / "bin").mkdir(parents=True)
    worker = fakes.Fakes(tmp_path / "worker")
    worker.add("sudo", _SUDO)
    worker.add("systemd-run", _SYSTEMD_RUN)
    python = home / "wbc_jax" / "bin" / "python"
    mark = 'touch "$HOME/.wbc_jax_stopped"\n' if marked else ""
    python.write_text(
        f'#!/bin/bash\nprintf "%s\\n" "$@" > "$HOME/arguments"\n{mark}exit {status}\n'
    )
    python.chmod(0o755)
    assert worker.run("bash", "-c", command, HOME=str(home)).returncode == ends
    assert (home / "arguments").read_text().splitlines() == [
        "-u",
        "-m",
        "wbc_jax.main",
        *RUN[1:],
        odd,
    ]
    stop, start = (home / "sudo").read_text().splitlines()
    assert stop == "systemctl stop wbc_jax"  # in case a lost connection left one behind
    words = shlex.split(start.partition(" bash -c")[0])
    assert {"--wait", "--unit=wbc_jax", "--property=TimeoutStopSec=120"} < set(words)
    assert {f"--setenv=HOME={home}", "--setenv=WBC_JAX_DISTRIBUTED=auto"} < set(words)


def test_interrupted_on_a_slice_that_stays(gcloud):
    """After maintenance or a lost connection the same line runs again."""
    done = gcloud.run(
        SCRIPT, *RUN, **SLICE,
        answers={SSH: [[143, ""], [255, ""], [0, ""]], DESCRIBED: [[0, "ACTIVE"]]},
    )  # fmt: skip
    assert done.returncode == 0
    assert _kinds(gcloud) == ["start", "describe", "start", "describe", "start"]
    starts = [call for call in gcloud.calls if call[4] == "ssh"]
    assert starts[0] == starts[1] == starts[2]
    assert "Interrupted (status 255): restart 2 of at most 100." in done.stderr


def test_preempted(gcloud):
    """A suspended slice is deleted and requested again, and training continues."""
    states = ("SUSPENDING", "SUSPENDED", "SUSPENDED", "WAITING_FOR_RESOURCES", "ACTIVE")
    done = gcloud.run(
        SCRIPT, *RUN, **SLICE,
        answers={
            SSH: [[1, ""], [0, ""], [0, ""]],  # a neighbor of the lost worker; install; run
            DESCRIBED: [[0, s] for s in states],
        },
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert _kinds(gcloud) == [
        "start", "describe", "describe", "describe", "delete", "create", "describe", "describe",
        "scp", "install", "start",
    ]  # fmt: skip
    assert gcloud.calls[4:6] == [DELETE, CREATE]


def test_a_slice_that_is_gone_is_not_deleted(gcloud):
    done = gcloud.run(
        SCRIPT, *RUN, **SLICE,
        answers={SSH: [[255, ""], [0, ""]], DESCRIBED: [[1, ""], [1, ""], [0, "ACTIVE"]]},
    )  # fmt: skip
    assert done.returncode == 0
    assert _kinds(gcloud) == [
        "start", "describe", "describe", "create", "describe", "scp", "install", "start",
    ]  # fmt: skip


def test_an_error_of_the_run_is_not_repeated(gcloud):
    done = gcloud.run(
        SCRIPT, *RUN, **SLICE, answers={SSH: [[1, ""]], DESCRIBED: [[0, "ACTIVE"]]}
    )  # fmt: skip
    assert done.returncode == 2 and _kinds(gcloud) == ["start", "describe"]
    assert "a worker ended with status 1, and the slice is there" in done.stderr


def test_stopped_by_hand_it_does_not_start_again(gcloud):
    done = gcloud.run(SCRIPT, *RUN, **SLICE, answers={SSH: [[130, ""]]})
    assert done.returncode == 130 and _kinds(gcloud) == ["start"]
    gcloud.run(SCRIPT, "stop", **SLICE)
    assert gcloud.calls[0][7] == ("--command=touch ~/.wbc_jax_stopped; sudo systemctl stop wbc_jax")


def test_not_for_ever(gcloud):
    done = gcloud.run(
        SCRIPT, *RUN, **SLICE, TPU_MAX_RESTARTS="2",
        answers={SSH: [[255, ""]], DESCRIBED: [[0, "ACTIVE"]]},
    )  # fmt: skip
    assert done.returncode == 2 and _kinds(gcloud).count("start") == 3
    assert "interrupted (status 255), and run again 2 times already" in done.stderr


def test_up_does_all(gcloud):
    done = gcloud.run(SCRIPT, "up", *RUN[1:], **SLICE, answers={DESCRIBED: [[0, "ACTIVE"]]})
    assert done.returncode == 0
    assert _kinds(gcloud) == ["create", "describe", "scp", "install", "start"]


def test_delete_and_status(gcloud):
    gcloud.run(SCRIPT, "delete", **SLICE)
    assert gcloud.calls == [DELETE]
    gcloud.run(SCRIPT, "status", **SLICE)
    assert gcloud.calls == [[*QUEUED, "describe", "wbc", ZONE]]


@pytest.mark.parametrize(
    "arguments, unset, said",
    [
        ((), "", "launch/tpu_vm.sh create"),
        (("creat",), "", "launch/tpu_vm.sh create"),
        (("run",), "", "launch/tpu_vm.sh run ARGUMENTS..."),
        (("status",), "TPU_ZONE", "error: TPU_ZONE is not set; see the head of"),
        (("create",), "TPU_TYPE", "error: TPU_TYPE is not set"),
        (("run", "--config=c.py"), "", "error: the workers share no disk: add --workdir=gs://"),
    ],
)
def test_wrong_use(gcloud, arguments, unset, said):
    variables = {k: v for k, v in SLICE.items() if k != unset}
    done = gcloud.run(SCRIPT, *arguments, **variables)
    assert done.returncode == 2 and gcloud.calls == []
    assert said in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("gcloud"), reason="no gcloud here")
def test_gcloud_itself_knows_these_calls():
    """gcloud's own parser accepts the calls, offline; the last call is wrong."""
    ssh = [*VM, "ssh", "wbc", "--worker=all", "--command=ls", ZONE]
    create = [*CREATE, "--spot", "--service-account=a@p", "--project=p"]
    wrong = [*SCP[:-2], "--wrker=all", ZONE]
    for call in (create, STATE, DELETE, SCP, ssh, wrong):
        done = subprocess.run(
            ["gcloud", "meta", "lint-gcloud-commands", f"--command-string={shlex.join(call)}"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        (found,) = json.loads(done.stdout)
        assert found["success"] == (call is not wrong), found["error_message"]
