"""From what a submitter wrote to the validated form, or to everything that is wrong with it.

LAW: `parse_spec` raises SpecError and nothing else, whatever it is given. It collects all errors.
It never ignores a field: an unknown one is refused.
"""

import json
import re
from typing import Final

from dstackd.spec import limits
from dstackd.spec.canonical import to_text
from dstackd.spec.dependencies import read_depends_on
from dstackd.spec.entries import (
    read_commands,
    read_env,
    read_instance_types,
    read_labels,
    read_name,
)
from dstackd.spec.errors import FieldError, SpecError
from dstackd.spec.model import (
    JobSpec,
    Permissions,
    RegistryAuth,
    Resources,
    SpotPolicy,
    StopSignal,
)
from dstackd.spec.paths import read_artifacts, read_inputs, relative_path
from dstackd.spec.policy import read_registry_auth, read_retry
from dstackd.spec.reading import Fields, Problems, refuse, shown
from dstackd.spec.resources import default_resources, read_resources
from dstackd.spec.scalars import dollars, switch, text, whole_number, word_of
from dstackd.spec.units import duration_or_off, duration_s

WHOLE: Final = "spec"

CERTAINLY_SMALL_BYTES: Final = 8 * 1024
"""With its defaults written out such a text is far from the limit (a property test); to write them costs more than all else."""

_EXAMPLE = 'write a mapping such as {"commands": ["echo hello"]}'
_DEFAULT = JobSpec(commands=())
# It becomes an argument of the engine, so it begins as no option does.
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]*")
_spot_policy = word_of(SpotPolicy)
_stop_signal = word_of(StopSignal)
_permissions = word_of(Permissions)
_reuse = duration_s(low_s=1, high_s=limits.REUSE_S_MAX)
_array = whole_number(low=1, high=limits.ARRAY_MAX, fix="write how many equal jobs, such as 8")
_price = dollars(
    high=limits.PRICE_USD_MAX, expected="a price", fix="write US dollars an hour, such as 0.5"
)
_budget = dollars(
    high=limits.BUDGET_USD_MAX, expected="a budget", fix="write US dollars, such as 5"
)
_stop_grace = duration_s(low_s=0, high_s=limits.STOP_GRACE_S_MAX)


def parse_spec(value: object) -> JobSpec:
    """The validated form of a JSON-like value.

    Raises SpecError with one FieldError for each thing that is wrong.
    """
    spec = _validated(value)
    size_bytes = len(to_text(spec).encode())
    if size_bytes > limits.SPEC_BYTES_MAX:
        raise _too_large(size_bytes)
    return spec


def parse_spec_json(written: str) -> JobSpec:
    """The validated form of the JSON text in a job's row. Raises SpecError only."""
    size_bytes = len(written.encode(errors="surrogatepass"))
    if size_bytes > limits.SPEC_BYTES_MAX:
        raise _too_large(size_bytes)
    value = load_json(written, where=WHOLE)
    if isinstance(value, str):
        fix = "encode it as JSON once, not twice"
        raise SpecError([FieldError(WHOLE, "is a JSON text, not a mapping", fix)])
    return _validated(value) if size_bytes <= CERTAINLY_SMALL_BYTES else parse_spec(value)


def _validated(value: object) -> JobSpec:
    if not isinstance(value, dict):
        raise SpecError([FieldError(WHOLE, f"{shown(value)} is not a mapping", _EXAMPLE)])
    problems = Problems()
    spec = _read_spec(Fields(problems, "", value))
    problems.raise_if_any()
    return spec


def load_json(written: str, *, where: str) -> object:
    """JSON text as a value, strictly: no NaN, no key twice. Raises SpecError at `where`."""
    try:
        return json.loads(
            written, parse_constant=_no_constant, object_pairs_hook=_without_duplicates
        )
    except json.JSONDecodeError as error:
        at = f"{where}:{error.lineno}:{error.colno}"
        raise SpecError([FieldError(at, f"is not JSON: {error.msg}", "correct the JSON")]) from None
    except RecursionError:
        problem = "is nested too deeply"
        raise SpecError([FieldError(where, problem, "a spec has at most five levels")]) from None
    except ValueError as error:
        raise SpecError([FieldError(where, f"is not JSON: {error}", "correct the JSON")]) from None


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON number")


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members: dict[str, object] = {}
    for key, value in pairs:
        if key in members:
            raise ValueError(f"the key {shown(key)} is there twice")
        members[key] = value
    return members


def _too_large(size_bytes: int) -> SpecError:
    fix = f"use at most {limits.SPEC_BYTES_MAX}; put long texts in files among the inputs"
    return SpecError([FieldError(WHOLE, f"holds {size_bytes} bytes of JSON", fix)])


def _read_spec(fields: Fields) -> JobSpec:
    image = fields.take("image", _read_image, _DEFAULT.image)
    instance_types = fields.take_block(
        "instance_types", read_instance_types, _DEFAULT.instance_types
    )
    spec = JobSpec(
        commands=_read_commands(fields, required=image is None),
        name=fields.take("name", read_name, _DEFAULT.name),
        image=image,
        registry_auth=_read_registry_auth(fields),
        env=fields.take_block("env", read_env, _DEFAULT.env),
        working_dir=fields.take("working_dir", relative_path, _DEFAULT.working_dir),
        inputs=fields.take_block("inputs", read_inputs, _DEFAULT.inputs),
        artifacts=fields.take_block("artifacts", read_artifacts, _DEFAULT.artifacts),
        resources=_read_resources(fields, any_size=bool(instance_types)),
        instance_types=instance_types,
        spot_policy=fields.take("spot_policy", _spot_policy, _DEFAULT.spot_policy),
        max_price=fields.take("max_price", _price, _DEFAULT.max_price),
        budget=fields.take("budget", _budget, _DEFAULT.budget),
        max_duration_s=fields.take("max_duration", duration_or_off, _DEFAULT.max_duration_s),
        retry=fields.take_block("retry", read_retry, _DEFAULT.retry),
        stop_grace_s=fields.take("stop_grace", _stop_grace, _DEFAULT.stop_grace_s),
        stop_signal=fields.take("stop_signal", _stop_signal, _DEFAULT.stop_signal),
        permissions=fields.take("permissions", _permissions, _DEFAULT.permissions),
        reuse_s=fields.take("reuse", _reuse, _DEFAULT.reuse_s),
        resume=fields.take("resume", switch, _DEFAULT.resume),
        array=fields.take("array", _array, _DEFAULT.array),
        depends_on=fields.take_block("depends_on", read_depends_on, _DEFAULT.depends_on),
        labels=fields.take_block("labels", read_labels, _DEFAULT.labels),
    )
    fields.refuse_unknown()
    if spec.budget is not None and spec.max_duration_s is None:
        fields.problems.add("budget", "cannot be kept without an end", "set max_duration, not off")
    _refuse_without_image(fields, spec)
    if spec.reuse_s is not None and spec.permissions is Permissions.MACHINE:
        problem = "is not possible after commands that were root: nobody can clean up behind them"
        fields.problems.add("reuse", problem, "remove reuse, or permissions: machine")
    return spec


def _read_image(value: object) -> str:
    fix = "write the name of an image, such as python:3.12-slim"
    image = text(value, fix=fix, chars_max=limits.REFERENCE_CHARS_MAX)
    if not _IMAGE.fullmatch(image):
        refuse(value, "the name of an image", fix)
    return image


def _refuse_without_image(fields: Fields, spec: JobSpec) -> None:
    """What says something of a container needs one."""
    if fields.raw("image") is not None:
        return
    if spec.registry_auth is not None:
        problem = "is for pulling an image, and there is none"
        fields.problems.add("registry_auth", problem, "add image, or remove registry_auth")
    if spec.resources.shm_size_mib is not None:
        problem = "sizes the /dev/shm of a container, and there is no image"
        fix = "add image, or remove shm_size: the job has the machine's own /dev/shm"
        fields.problems.add("resources.shm_size", problem, fix)


def _read_commands(fields: Fields, *, required: bool) -> tuple[str, ...]:
    if fields.raw("commands") is None and required:
        fields.problems.add("commands", "is missing", 'write what to run, such as ["echo hello"]')
    return fields.take_block("commands", read_commands, _DEFAULT.commands)


def _read_registry_auth(fields: Fields) -> RegistryAuth | None:
    return fields.take_block("registry_auth", read_registry_auth, _DEFAULT.registry_auth)


def _read_resources(fields: Fields, *, any_size: bool) -> Resources:
    """Whoever names instance types has said the size: the defaults must not exclude them."""
    default = default_resources(any_size=any_size)

    def read(problems: Problems, path: str, value: object) -> Resources:
        return read_resources(problems, path, value, default=default)

    return fields.take_block("resources", read, default)
