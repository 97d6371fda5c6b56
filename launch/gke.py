"""Prints a JobSet for GKE that trains on a slice of TPUs or on GPU nodes.

python -m launch.gke tpu --name=unet --image=IMAGE --type=tpu-v5-lite-podslice --topology=4x4 \\
    --per-host=4 -- --config=configs/unet.py --workdir=gs://BUCKET/unet | kubectl apply -f -
python -m launch.gke gpu --name=unet --image=IMAGE --type=nvidia-h100-80gb --hosts=4 \\
    --per-host=8 -- --config=configs/unet.py --workdir=gs://BUCKET/unet | kubectl apply -f -

The cluster needs the JobSet controller and a node pool of that type; `docs/launch.md` has the
commands. The image is built from `launch/Containerfile`. Each host runs one process with all of its
devices.
"""

import argparse
import dataclasses
import math
import pathlib
import re
import sys
from collections.abc import Sequence
from typing import Any

import jinja2

TEMPLATE = pathlib.Path(__file__).with_name("jobset.yaml.j2")
RESOURCES = {"tpu": "google.com/tpu", "gpu": "nvidia.com/gpu"}
# A JobSet's pods are named NAME-workers-0-INDEX-abcde, of at most 63 characters.
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")
_PLAIN = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_TOPOLOGY = re.compile(r"[1-9]\d*(x[1-9]\d*){1,2}")


class FieldError(ValueError):
    """A field of the job is missing or has a value that is not allowed."""


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """The settings of a JobSet.

    Attributes:
        kind: `tpu` or `gpu`.
        name: name of the JobSet.
        image: container image.
        accelerator_type: label of the node pool, such as `tpu-v5-lite-podslice` or
            `nvidia-h100-80gb`.
        per_host: devices in a node.
        arguments: arguments of `python -m wbc_jax.main`.
        topology: shape of a TPU slice, such as `4x4`; the number of hosts follows from it and
            `per_host`.
        hosts: number of GPU nodes.
        namespace, service_account: of the pods; the account must be able to write to the bucket.
        spot: use preemptible nodes.
        max_restarts: largest number of restarts after failures; interruptions do not count.
        grace_seconds: time between SIGTERM and SIGKILL.
        port: port of the coordinator.
    """

    kind: str
    name: str
    image: str
    accelerator_type: str
    per_host: int
    arguments: tuple[str, ...]
    topology: str = ""
    hosts: int = 0
    namespace: str = "default"
    service_account: str = ""
    spot: bool = False
    max_restarts: int = 10
    grace_seconds: int = 120
    port: int = 8476


def check(job: Job) -> Job:
    """Returns the job, with the number of hosts of a TPU slice filled in.

    Raises:
        FieldError: names the field, what was found and what is allowed.
    """
    allowed = {
        "kind": (job.kind in RESOURCES, "tpu or gpu"),
        "name": (_NAME.fullmatch(job.name), "a-z, 0-9 and - only, at most 40, a letter first"),
        "image": (re.fullmatch(r"\S+", job.image), "the container image's name"),
        "type": (_PLAIN.fullmatch(job.accelerator_type), "a node label such as nvidia-h100-80gb"),
        "namespace": (_PLAIN.fullmatch(job.namespace), "a namespace's name"),
        "service-account": (
            not job.service_account or _PLAIN.fullmatch(job.service_account),
            "a service account's name",
        ),
        "per-host": (job.per_host >= 1, "at least 1"),
        "max-restarts": (job.max_restarts >= 0, "at least 0"),
        "grace-seconds": (job.grace_seconds >= 1, "at least 1"),
        "port": (0 < job.port < 65536, "1 to 65535"),
    }
    values = dataclasses.asdict(job) | {"type": job.accelerator_type}
    for field, (good, what) in allowed.items():
        if not good:
            value = values[field.replace("-", "_")]
            raise FieldError(f"--{field} is {value!r}; it must be {what}.")
    if not any(a.startswith("--workdir=gs://") for a in job.arguments):
        raise FieldError(
            f"the arguments are {' '.join(job.arguments)!r}; the pods share no disk: add "
            "--workdir=gs://... after --."
        )
    if job.kind == "gpu":
        if job.topology or job.hosts < 1:
            raise FieldError(
                f"--hosts is {job.hosts} and --topology {job.topology!r}; GPU nodes are counted "
                "by --hosts, at least 1, and have no topology."
            )
        return job
    if job.hosts or not _TOPOLOGY.fullmatch(job.topology):
        raise FieldError(
            f"--topology is {job.topology!r} and --hosts {job.hosts}; a TPU slice is named by its "
            "topology alone, such as 4x4 or 2x2x4."
        )
    chips = math.prod(map(int, job.topology.split("x")))
    if chips % job.per_host:
        raise FieldError(
            f"--per-host is {job.per_host}; it must divide the {chips} chips of {job.topology}."
        )
    return dataclasses.replace(job, hosts=chips // job.per_host)


def render(job: Job) -> str:
    """Returns the JobSet of a job as YAML.

    Raises:
        FieldError: as `check`.
    """
    job = check(job)
    return fill(TEMPLATE, **dataclasses.asdict(job), resource=RESOURCES[job.kind])


def fill(template: pathlib.Path, **values: Any) -> str:
    """Returns a template with its values; a value that is missing is an error."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    return environment.from_string(template.read_text(encoding="utf-8")).render(**values)


def divide(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns what stands before the first `--` of a command line, and what stands after it."""
    own = list(argv)
    place = own.index("--") if "--" in own else len(own)
    return own[:place], own[place + 1 :]


def parse(argv: Sequence[str]) -> Job:
    """Parses a command line."""
    own, arguments = divide(argv)
    parser = argparse.ArgumentParser(
        prog="python -m launch.gke",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("kind", choices=list(RESOURCES))
    parser.add_argument("--name", required=True)
    parser.add_argument("--image", required=True)
    parser.add_argument("--type", dest="accelerator_type", required=True)
    parser.add_argument("--per-host", type=int, required=True)
    parser.add_argument("--spot", action="store_true")
    defaults = {f.name: f.default for f in dataclasses.fields(Job)}
    optional = ("topology", "hosts", "namespace", "service_account")
    for name in (*optional, "max_restarts", "grace_seconds", "port"):
        option, default = f"--{name.replace('_', '-')}", defaults[name]
        parser.add_argument(option, type=type(default), default=default)
    return Job(**vars(parser.parse_args(own)), arguments=tuple(arguments))


if __name__ == "__main__":
    try:
        print(render(parse(sys.argv[1:])), end="")
    except FieldError as error:
        sys.exit(f"error: {error}")
