"""launch/predict_job.py: Jobs that Kubernetes' own schemas accept, and errors with the field."""

import dataclasses
import subprocess
import sys

import kubernetes_validate
import pytest
import yaml

from helpers import fakes
from wbc_jax.inference import shards

sys.path.insert(0, str(fakes.ROOT))

from launch import gke, predict_job

ARGUMENTS = ("--paths=gs://cells/list.txt", "--out=gs://cells/out", '--model=a "b" {{ c }}')
JOB = predict_job.Job("cells", "registry/wbc_jax:cpu", 100, ARGUMENTS)
ON_DISK = ("--paths=/data/list.txt", "--out=/data/out")


def _made(**changes):
    made = yaml.safe_load(predict_job.render(dataclasses.replace(JOB, **changes)))
    kubernetes_validate.validate(made, "1.31", strict=True)
    (container,) = made["spec"]["template"]["spec"]["containers"]
    return made["spec"], container


@pytest.mark.parametrize("gpus", [0, 2])
@pytest.mark.parametrize("claim", ["", "images"])
@pytest.mark.parametrize("account", ["", "reader"])
def test_kubernetes_accepts_it(gpus, claim, account):
    spec, container = _made(gpus=gpus, claim=claim, service_account=account, parallelism=20)
    assert (spec["completions"], spec["parallelism"]) == (100, 20)
    assert container["args"] == list(ARGUMENTS)
    assert container["command"][-3:] == ["python", "-m", "wbc_jax.predict"]
    limits = container["resources"]["limits"]
    assert limits == {"memory": "8Gi"} | ({"nvidia.com/gpu": 2} if gpus else {})
    pod = spec["template"]["spec"]
    assert pod.get("serviceAccountName", "") == account and ("tolerations" in pod) == bool(gpus)
    if claim:
        (volume,) = pod["volumes"]
        assert volume["persistentVolumeClaim"] == {"claimName": "images"}
        assert container["volumeMounts"] == [{"name": volume["name"], "mountPath": "/data"}]
    else:
        assert "volumes" not in pod and "volumeMounts" not in container


def test_a_field_that_kubernetes_does_not_know_is_seen():
    made = yaml.safe_load(predict_job.render(JOB))
    made["spec"]["completion"] = 4
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(made, "1.31", strict=True)


def test_each_task_finds_its_share():
    """The variables of task 7, as Kubernetes fills them in, are those of `shards.find_shard`."""
    spec, container = _made()
    assert spec["completionMode"] == "Indexed"
    place = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    filled = {
        one["name"]: one.get("value") or {place: "7"}[one["valueFrom"]["fieldRef"]["fieldPath"]]
        for one in container["env"]
    }
    assert shards.find_shard("", filled) == (7, 100)


def test_what_counts_as_a_failure():
    spec, container = _made(max_restarts=2)
    assert spec["backoffLimitPerIndex"] == 2 and spec["maxFailedIndexes"] == 100
    rules = spec["podFailurePolicy"]["rules"]
    assert rules[0]["action"] == "Ignore"
    assert rules[0]["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    by_code = {rule["onExitCodes"]["values"][0]: rule["action"] for rule in rules[1:]}
    assert by_code == {143: "Ignore", 3: "FailIndex", 2: "FailJob"}
    assert {rule["onExitCodes"]["containerName"] for rule in rules[1:]} == {container["name"]}
    # A policy for failures needs it: pods are not restarted in place.
    assert spec["template"]["spec"]["restartPolicy"] == "Never"


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"name": "Cells"}, "--name is 'Cells'; it must be a-z"),
        ({"image": "a b"}, "--image is 'a b'"),
        ({"tasks": 0}, "--tasks is 0; it must be 1 to 100000"),
        ({"parallelism": 101}, "--parallelism is 101; it must be 0"),
        ({"memory": "8 GB"}, "--memory is '8 GB'; it must be such as 8Gi"),
        ({"claim": "A"}, "--claim is 'A'"),
        ({"max_restarts": -1}, "--max-restarts is -1"),
        ({"arguments": ARGUMENTS[:1]}, r"add --out=\.\.\. after --"),
        ({"arguments": ON_DISK}, "--paths is '/data/list.txt', which the tasks do not share"),
        (
            {"arguments": (ARGUMENTS[0], "--out=/elsewhere"), "claim": "c"},
            r"--out is '/elsewhere', .* or in /data with --claim=NAME",
        ),
        ({"arguments": (*ARGUMENTS, "--shard=0/2")}, "hold --shard=0/2; the Job itself divides"),
    ],
)
def test_wrong_fields(changes, said):
    with pytest.raises(gke.FieldError, match=said):
        predict_job.render(dataclasses.replace(JOB, **changes))


def test_command():
    command = [sys.executable, "-m", "launch.predict_job", "--name=cells", "--image=i"]
    command += ["--tasks=8", "--claim=images", "--cpus=2", "--", *ON_DISK]
    done = subprocess.run(command, cwd=fakes.ROOT, capture_output=True, text=True, check=True)
    job = dataclasses.replace(JOB, image="i", tasks=8, claim="images", cpus=2, arguments=ON_DISK)
    assert done.stdout == predict_job.render(job)
    assert yaml.safe_load(done.stdout)["spec"]["parallelism"] == 8
