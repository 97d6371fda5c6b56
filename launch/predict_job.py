"""Prints an indexed Job for Kubernetes, whose tasks share the prediction of a list of images.

python -m launch.predict_job --name=cells --image=IMAGE --tasks=100 --parallelism=20 \\
    -- --paths=gs://BUCKET/list.txt --out=gs://BUCKET/predicted --model=segmenter \\
    --model=classifier | kubectl apply -f -

Each task predicts every hundredth part of the list. `--claim=NAME` mounts a volume claim, which
several nodes can write, at `--mount`; otherwise list, images and results are in a bucket. The image
is built from `launch/Containerfile`. `python -m wbc_jax.predict --collect=OUT` then makes tables
and a page of all parts.
"""

import argparse
import dataclasses
import pathlib
import re
import sys
from collections.abc import Sequence

from launch import gke
from launch.gke import FieldError

TEMPLATE = pathlib.Path(__file__).with_name("predict_job.yaml.j2")
# A Job's pods are named NAME-INDEX-abcde, of at most 63 characters.
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,48}[a-z0-9])?")
_PLAIN = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_MOST_TASKS = 100_000  # of a Job with backoffLimitPerIndex, by the Job's API


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """The settings of an indexed Job.

    Attributes:
        name: name of the Job.
        image: container image.
        tasks: number of tasks that share the list.
        arguments: arguments of `python -m wbc_jax.predict`.
        parallelism: number of tasks that run at the same time; 0: all.
        gpus: NVIDIA GPUs of a task.
        cpus: processors of a task.
        memory: of a task, as Kubernetes writes it.
        claim: name of a volume claim; empty: none.
        mount: folder at which the claim is mounted.
        namespace, service_account: of the pods.
        max_restarts: largest number of restarts of a task after failures; interruptions do not
            count.
    """

    name: str
    image: str
    tasks: int
    arguments: tuple[str, ...]
    parallelism: int = 0
    gpus: int = 0
    cpus: int = 4
    memory: str = "8Gi"
    claim: str = ""
    mount: str = "/data"
    namespace: str = "default"
    service_account: str = ""
    max_restarts: int = 5


def check(job: Job) -> Job:
    """Returns the job with `parallelism` filled in.

    Raises:
        FieldError: names the field, what was found and what is allowed.
    """
    allowed = {
        "name": (_NAME.fullmatch(job.name), "a-z, 0-9 and - only, at most 50, a letter first"),
        "image": (re.fullmatch(r"\S+", job.image), "the container image's name"),
        "tasks": (1 <= job.tasks <= _MOST_TASKS, f"1 to {_MOST_TASKS}"),
        "parallelism": (
            0 <= job.parallelism <= job.tasks,
            "0 (all at the same time) to the number of tasks",
        ),
        "gpus": (job.gpus >= 0, "at least 0"),
        "cpus": (job.cpus >= 1, "at least 1"),
        "memory": (re.fullmatch(r"[1-9]\d*[MG]i", job.memory), "such as 8Gi or 900Mi"),
        "claim": (not job.claim or _PLAIN.fullmatch(job.claim), "a volume claim's name"),
        "mount": (re.fullmatch(r"/[-\w./]+", job.mount), "a folder such as /data"),
        "namespace": (_PLAIN.fullmatch(job.namespace), "a namespace's name"),
        "service-account": (
            not job.service_account or _PLAIN.fullmatch(job.service_account),
            "a service account's name",
        ),
        "max-restarts": (job.max_restarts >= 0, "at least 0"),
    }
    values = dataclasses.asdict(job)
    for field, (good, what) in allowed.items():
        if not good:
            value = values[field.replace("-", "_")]
            raise FieldError(f"--{field} is {value!r}; it must be {what}.")
    _check_arguments(job)
    return dataclasses.replace(job, parallelism=job.parallelism or job.tasks)


def _check_arguments(job: Job) -> None:
    given = " ".join(job.arguments)
    if shared := [a for a in job.arguments if re.match(r"--(shard|collect)\b", a)]:
        raise FieldError(
            f"the arguments hold {shared[0]}; the Job itself divides the list among its tasks: "
            "leave it out."
        )
    for flag in ("--paths", "--out"):
        found = [a.partition("=")[2] for a in job.arguments if a.startswith(f"{flag}=")]
        if not found:
            raise FieldError(f"the arguments are {given!r}; add {flag}=... after --.")
        inside = job.claim and pathlib.PurePosixPath(found[-1]).is_relative_to(job.mount)
        if "://" not in found[-1] and not inside:
            raise FieldError(
                f"{flag} is {found[-1]!r}, which the tasks do not share; it must be in a bucket "
                f"(gs://...), or in {job.mount} with --claim=NAME."
            )


def render(job: Job) -> str:
    """Returns the Job as YAML.

    Raises:
        FieldError: as `check`.
    """
    return gke.fill(TEMPLATE, **dataclasses.asdict(check(job)))


def parse(argv: Sequence[str]) -> Job:
    """Parses a command line."""
    own, arguments = gke.divide(argv)
    parser = argparse.ArgumentParser(
        prog="python -m launch.predict_job",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--name", required=True)
    parser.add_argument("--image", required=True)
    parser.add_argument("--tasks", type=int, required=True)
    for field in dataclasses.fields(Job):
        if field.default is not dataclasses.MISSING:
            option = f"--{field.name.replace('_', '-')}"
            parser.add_argument(option, type=type(field.default), default=field.default)
    return Job(**vars(parser.parse_args(own)), arguments=tuple(arguments))


if __name__ == "__main__":
    try:
        print(render(parse(sys.argv[1:])), end="")
    except FieldError as error:
        sys.exit(f"error: {error}")
