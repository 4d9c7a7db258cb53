"""How `depends_on` is read.

LAW: values in, tuples out (see reading.py). Whether the jobs exist is not known here.
"""

import re

from dstackd.spec import limits
from dstackd.spec.model import Dependency, DependencyEnd
from dstackd.spec.reading import Fields, Problems, refuse, with_key_on
from dstackd.spec.scalars import text, word_of

_ID = re.compile(r"[a-z0-9-]+")
_ID_FIX = "write the id of a job as the table has it, in quotes"
_NOBODY = Dependency("")
_end = word_of(DependencyEnd)


def read_depends_on(problems: Problems, path: str, value: object) -> tuple[Dependency, ...]:
    """The jobs that have to end first: ids, or mappings of `id` and `on`."""
    members = problems.items(path, value, items_max=limits.DEPENDS_ON_MAX)
    found: dict[str, Dependency] = {}
    for at, member in members:
        dependency = _read_dependency(problems, at, member)
        if dependency.job_id in found:
            problems.add(at, f"names {dependency.job_id} again", "name each job once")
        if dependency.job_id:
            found[dependency.job_id] = dependency
    return tuple(found.values())


def _read_dependency(problems: Problems, path: str, value: object) -> Dependency:
    if not isinstance(value, dict):
        return problems.read(path, value, _read_plain, _NOBODY)
    fields = Fields(problems, path, with_key_on(value))
    job_id = fields.require("id", _read_id, fix=_ID_FIX)
    on = fields.take("on", _end, DependencyEnd.SUCCESS)
    fields.refuse_unknown()
    return Dependency(job_id, on)


def _read_plain(value: object) -> Dependency:
    return Dependency(_read_id(value))


def _read_id(value: object) -> str:
    job_id = text(value, fix=_ID_FIX, chars_max=limits.JOB_ID_CHARS_MAX)
    if not _ID.fullmatch(job_id):
        refuse(value, "the id of a job", _ID_FIX)
    return job_id
