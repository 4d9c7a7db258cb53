"""The options of `dstackd submit` that describe a job, and the spec that they make.

Law: the spec is written as a person would write it; what is right is decided by dstackd.spec alone.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS: Final = (
    click.option("--name", metavar="TEXT", help="What to call the job."),
    click.option("--cpu", metavar="RANGE", help="Virtual CPUs: 4, 4.. or 2..8."),
    click.option("--memory", metavar="RANGE", help="Such as 16GB.. (at least)."),
    click.option("--gpu", metavar="SPEC", help="Such as 1, A10G:2 or 24GB.."),
    click.option("--disk", metavar="SIZE", help="Such as 200GB."),
    click.option("--arch", metavar="ARCH", help="x86_64 or arm64."),
    click.option(
        "--instance-type", multiple=True, metavar="TYPE", help="c7g.large, m7i.*; may repeat."
    ),
    click.option("--spot", "spot_policy", flag_value="spot", help="Spot machines only."),
    click.option(
        "--on-demand", "spot_policy", flag_value="on-demand", help="On-demand machines only."
    ),
    click.option("--max-price", type=float, metavar="USD", help="An hour, for one machine."),
    click.option("--budget", type=float, metavar="USD", help="For all attempts, at the worst."),
    click.option("-e", "--env", multiple=True, metavar="NAME=VALUE", help="May repeat."),
    click.option(
        "-i",
        "--input",
        multiple=True,
        metavar="SOURCE[:TARGET]",
        help="A file or folder of this host, or s3://BUCKET/PREFIX; may repeat.",
    ),
    click.option(
        "-o", "--artifact", multiple=True, metavar="PATH", help="Kept when it ends; may repeat."
    ),
    click.option("--working-dir", metavar="PATH", help="Inside the job's folder."),
    click.option("--image", metavar="IMAGE", help="Container image."),
    click.option("--array", type=int, metavar="N", help="N equal jobs."),
    click.option("--max-duration", metavar="DURATION", help="Such as 2h, or off."),
    click.option("--stop-grace", metavar="DURATION", help="Between SIGTERM and SIGKILL."),
    click.option(
        "--retry-on", multiple=True, metavar="CAUSE", help="no-capacity, interruption or error."
    ),
    click.option("--max-attempts", type=int, metavar="N", help="Attempts that may run."),
    click.option("--retry-within", metavar="DURATION", help="No attempt after it."),
    click.option("--resume", is_flag=True, help="Restore the artifacts of the attempt before."),
    click.option(
        "--depends-on",
        multiple=True,
        metavar="ID[:any]",
        help="Needs this job to succeed first, or just to end; may repeat.",
    ),
    click.option("-l", "--label", multiple=True, metavar="KEY=VALUE", help="May repeat."),
)
# option: (section of the spec or "", field)
_FIELDS: Final = {
    "name": ("", "name"),
    "cpu": ("resources", "cpu"),
    "memory": ("resources", "memory"),
    "gpu": ("resources", "gpu"),
    "disk": ("resources", "disk"),
    "arch": ("resources", "arch"),
    "instance_type": ("", "instance_types"),
    "spot_policy": ("", "spot_policy"),
    "max_price": ("", "max_price"),
    "budget": ("", "budget"),
    "env": ("", "env"),
    "input": ("", "inputs"),
    "artifact": ("", "artifacts"),
    "working_dir": ("", "working_dir"),
    "image": ("", "image"),
    "array": ("", "array"),
    "max_duration": ("", "max_duration"),
    "stop_grace": ("", "stop_grace"),
    "retry_on": ("retry", "on"),
    "max_attempts": ("retry", "max_attempts"),
    "retry_within": ("retry", "within"),
    "resume": ("", "resume"),
    "label": ("", "labels"),
    "depends_on": ("", "depends_on"),
}


def spec_options(command: Command) -> Command:
    """Every option that describes a job."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def was_given(value: object) -> bool:
    """The person wrote the option."""
    return value is not None and value is not False and value != ()


def spec_of_options(command: Sequence[str], options: dict[str, Any]) -> dict[object, object]:
    """The spec that runs `command`, as `dstackd.spec` reads it."""
    spec: dict[object, object] = {"commands": [shlex.join(command)]}
    sections: dict[object, dict[object, object]] = {}
    for option, value in options.items():
        if was_given(value):
            section, field = _FIELDS[option]
            place = sections.setdefault(section, {}) if section else spec
            place[field] = _as_written(option, value)
    spec.update(sections)
    return spec


def _as_written(option: str, value: object) -> object:
    if option == "label" and isinstance(value, tuple):
        return dict(_assignment(each) for each in value)
    if option == "depends_on" and isinstance(value, tuple):
        return [_dependency(each) for each in value]
    return list(value) if isinstance(value, tuple) else value


def _dependency(written: str) -> object:
    job_id, colon, on = written.partition(":")
    return {"id": job_id, "on": on} if colon else job_id


def _assignment(written: str) -> tuple[str, str]:
    key, equals, value = written.partition("=")
    if not equals:
        raise click.UsageError(f'--label "{written}": has no =; write KEY=VALUE')
    return key, value
