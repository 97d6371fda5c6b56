"""launch/gke.py: JobSets that Kubernetes' own schemas accept, and errors that name the field."""

import copy
import dataclasses
import subprocess
import sys

import jsonschema
import kubernetes_validate
import pytest
import yaml

from helpers import fakes

sys.path.insert(0, str(fakes.ROOT))

from launch import gke

ARGUMENTS = ("--config=configs/unet.py", "--workdir=gs://cells/unet", '--x=a "b" {{ c }}')
TPU = gke.Job(
    "tpu", "unet", "registry/wbc_jax:tpu", "tpu-v5-lite-podslice", 4, ARGUMENTS, topology="4x4"
)
GPU = gke.Job("gpu", "unet", "registry/wbc_jax:cuda13", "nvidia-h100-80gb", 8, ARGUMENTS, hosts=4)

# The fields of a JobSet (jobset.x-k8s.io/v1alpha2) that are used here. Its job template is checked
# as a Job.
JOBSET = {
    "type": "object",
    "additionalProperties": False,
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "properties": {
        "apiVersion": {"const": "jobset.x-k8s.io/v1alpha2"},
        "kind": {"const": "JobSet"},
        "metadata": {
            "type": "object",
            "additionalProperties": False,
            "required": ["name", "namespace"],
            "properties": {
                "name": {"type": "string", "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$"},
                "namespace": {"type": "string"},
                "labels": {"additionalProperties": {"type": "string"}},
                "annotations": {"additionalProperties": {"type": "string"}},
            },
        },
        "spec": {
            "type": "object",
            "additionalProperties": False,
            "required": ["replicatedJobs"],
            "properties": {
                "network": {
                    "additionalProperties": False,
                    "properties": {"enableDNSHostnames": {"type": "boolean"}},
                },
                "failurePolicy": {
                    "additionalProperties": False,
                    "properties": {
                        "maxRestarts": {"type": "integer", "minimum": 0},
                        "rules": {
                            "type": "array",
                            "items": {
                                "additionalProperties": False,
                                "required": ["name", "action"],
                                "properties": {
                                    "name": {"type": "string"},
                                    "action": {
                                        "enum": [
                                            "FailJobSet",
                                            "RestartJobSet",
                                            "RestartJobSetAndIgnoreMaxRestarts",
                                        ]
                                    },
                                    "onJobFailureReasons": {
                                        "items": {
                                            "enum": [
                                                "BackoffLimitExceeded",
                                                "DeadlineExceeded",
                                                "FailedIndexes",
                                                "MaxFailedIndexesExceeded",
                                                "PodFailurePolicy",
                                            ]
                                        }
                                    },
                                },
                            },
                        },
                    },
                },
                "replicatedJobs": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "additionalProperties": False,
                        "required": ["name", "template"],
                        "properties": {
                            "name": {"type": "string"},
                            "replicas": {"type": "integer", "minimum": 1},
                            "template": {"type": "object", "required": ["spec"]},
                        },
                    },
                },
            },
        },
    },
}


def _check(jobset):
    jsonschema.validate(jobset, JOBSET)
    (replicated,) = jobset["spec"]["replicatedJobs"]
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}}
    kubernetes_validate.validate(job | replicated["template"], "1.31", strict=True)
    return replicated["template"]["spec"]


def _pod(job):
    (container,) = job["template"]["spec"]["containers"]
    return job["template"]["spec"], container


@pytest.mark.parametrize("spot", [False, True])
@pytest.mark.parametrize("account", ["", "trainer"])
@pytest.mark.parametrize("base", [TPU, GPU])
def test_kubernetes_accepts_it(base, spot, account):
    made = yaml.safe_load(gke.render(dataclasses.replace(base, spot=spot, service_account=account)))
    job = _check(made)
    pod, container = _pod(job)
    assert job["parallelism"] == job["completions"] == 4
    assert container["args"] == list(ARGUMENTS)
    assert pod.get("serviceAccountName", "") == account
    assert ("cloud.google.com/gke-spot" in pod["nodeSelector"]) == spot
    keys = {t["key"] for t in pod.get("tolerations", ())}
    assert ("cloud.google.com/gke-spot" in keys) == spot
    assert ("nvidia.com/gpu" in keys) == (base is GPU)


def test_a_field_that_kubernetes_does_not_know_is_seen():
    """The checks above can fail."""
    made = yaml.safe_load(gke.render(TPU))
    for wrong in ({"parallelisms": 4}, {"parallelism": "four"}):
        broken = copy.deepcopy(made)
        broken["spec"]["replicatedJobs"][0]["template"]["spec"] |= wrong
        with pytest.raises(kubernetes_validate.ValidationError):
            _check(broken)
    broken = copy.deepcopy(made)
    broken["spec"]["failurePolicies"] = {}
    with pytest.raises(jsonschema.ValidationError):
        _check(broken)


def test_interruptions_do_not_count_as_failures():
    """Pods that exit with 143 or are disrupted do not count as failures."""
    made = yaml.safe_load(gke.render(dataclasses.replace(GPU, max_restarts=7, grace_seconds=90)))
    job = _check(made)
    assert made["spec"]["failurePolicy"]["maxRestarts"] == 7
    (rule,) = made["spec"]["failurePolicy"]["rules"]
    assert rule["action"] == "RestartJobSetAndIgnoreMaxRestarts"
    assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
    disrupted, stopped = job["podFailurePolicy"]["rules"]
    assert disrupted["action"] == stopped["action"] == "FailJob"
    assert disrupted["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    pod, container = _pod(job)
    assert stopped["onExitCodes"] == {
        "containerName": container["name"],
        "operator": "In",
        "values": [143],
    }
    # A Job may see only one of several failing pods; none may be restarted on its own.
    assert job["backoffLimit"] == 0 and pod["restartPolicy"] == "Never"
    assert pod["terminationGracePeriodSeconds"] == 90


def test_a_tpu_slice():
    pod, container = _pod(_check(yaml.safe_load(gke.render(TPU))))
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "4x4",
    }
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    assert "env" not in container  # GKE's webhook sets JAX's variables
    assert gke.check(dataclasses.replace(TPU, topology="2x2x4")).hosts == 4
    assert gke.check(dataclasses.replace(TPU, topology="2x4", per_host=8)).hosts == 1


def test_gpu_nodes_find_each_other():
    made = yaml.safe_load(gke.render(dataclasses.replace(GPU, name="a-run", port=1234)))
    job = _check(made)
    pod, container = _pod(job)
    assert pod["nodeSelector"] == {"cloud.google.com/gke-accelerator": "nvidia-h100-80gb"}
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 8}
    plain = {e["name"]: e["value"] for e in container["env"] if "value" in e}
    # A JobSet names its pods JOBSET-JOB-REPLICA-INDEX, and their subdomain JOBSET.
    (replicated,) = made["spec"]["replicatedJobs"]
    first = f"{made['metadata']['name']}-{replicated['name']}-0-0.{made['metadata']['name']}"
    assert made["spec"]["network"]["enableDNSHostnames"] is True
    assert plain == {"WBC_JAX_COORDINATOR": f"{first}:1234", "WBC_JAX_NUM_PROCESSES": "4"}
    (index,) = [e for e in container["env"] if "valueFrom" in e]
    assert index["name"] == "WBC_JAX_PROCESS_ID" and job["completionMode"] == "Indexed"
    assert index["valueFrom"]["fieldRef"]["fieldPath"] == (
        "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    )
    assert container["ports"] == [{"containerPort": 1234}]


@pytest.mark.parametrize(
    "job, said",
    [
        (dataclasses.replace(TPU, name="Unet"), "--name is 'Unet'; it must be a-z, 0-9 and - only"),
        (dataclasses.replace(TPU, name="u" * 41), "--name is 'uuu"),
        (dataclasses.replace(TPU, image="a b"), "--image is 'a b'"),
        (
            dataclasses.replace(GPU, accelerator_type="H100: x"),
            "--type is 'H100: x'; it must be a node",
        ),
        (dataclasses.replace(GPU, service_account="a@b"), "--service-account is 'a@b'"),
        (dataclasses.replace(GPU, per_host=0), "--per-host is 0; it must be at least 1"),
        (dataclasses.replace(GPU, port=0), "--port is 0; it must be 1 to 65535"),
        (
            dataclasses.replace(GPU, hosts=0),
            "--hosts is 0 and --topology ''; GPU nodes are counted",
        ),
        (dataclasses.replace(GPU, topology="4x4"), "--hosts is 4 and --topology '4x4'"),
        (
            dataclasses.replace(TPU, topology="4"),
            "--topology is '4' and --hosts 0; a TPU slice is named",
        ),
        (dataclasses.replace(TPU, hosts=4), "--topology is '4x4' and --hosts 4"),
        (
            dataclasses.replace(TPU, topology="2x3"),
            "--per-host is 4; it must divide the 6 chips of 2x3.",
        ),
        (
            dataclasses.replace(TPU, arguments=("--config=c.py",)),
            "the arguments are '--config=c.py'; the",
        ),
    ],
)
def test_fields_that_are_not_allowed(job, said):
    with pytest.raises(gke.FieldError) as caught:
        gke.render(job)
    assert str(caught.value).startswith(said)


def test_the_command():
    def command(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "launch.gke", *arguments],
            cwd=fakes.ROOT, capture_output=True, text=True,
        )  # fmt: skip

    flags = (
        "gpu", "--name=unet", "--image=registry/wbc_jax:cuda13", "--type=nvidia-h100-80gb",
        "--hosts=4", "--per-host=8",
    )  # fmt: skip
    done = command(*flags, "--", *ARGUMENTS)
    assert (done.returncode, done.stdout) == (0, gke.render(GPU))
    done = command(*flags[:2], *flags[3:], "--", *ARGUMENTS)
    assert done.returncode == 2
    assert "the following arguments are required: --image" in done.stderr
    done = command(*flags, "--hosts=x", "--", *ARGUMENTS)
    assert done.returncode == 2 and "--hosts: invalid int value: 'x'" in done.stderr
    done = command(*flags)
    assert done.returncode == 1 and done.stderr.startswith("error: the arguments are ''")
