"""Spec files: YAML or JSON, one job or several.

LAW: text in, mappings out; the caller reads the file. Nothing of a job is checked here but the
text's own syntax. PyYAML is imported only when YAML is read.
"""

from dstackd.spec.errors import FieldError, SpecError
from dstackd.spec.limits import SPEC_FILE_BYTES_MAX
from dstackd.spec.parse import load_json
from dstackd.spec.reading import shown

_JOBS = "jobs"
_ONE_JOB_FIX = "a document is one job, such as `commands: [echo hello]`, or has a `jobs:` list"


def load_spec_file(path: str, text: str) -> list[dict[object, object]]:
    """The jobs of a file, each a value for `parse_spec`, in the order of the file.

    A document is one job, or a mapping whose only field is `jobs`, a list of jobs; YAML may hold
    several documents. JSON is read where the name ends in .json. `path` is for messages only.
    Raises SpecError; where the syntax is wrong, its field is path:line:column.
    """
    size_bytes = len(text.encode(errors="surrogatepass"))
    if size_bytes > SPEC_FILE_BYTES_MAX:
        fix = f"use at most {SPEC_FILE_BYTES_MAX}, in several files"
        raise SpecError([FieldError(path, f"holds {size_bytes} bytes", fix)])
    jobs: list[dict[object, object]] = []
    for document in _documents(path, text):
        jobs += _jobs_of(path, document)
    if not jobs:
        raise SpecError([FieldError(path, "holds no job", _ONE_JOB_FIX)])
    return jobs


def _documents(path: str, text: str) -> list[object]:
    if path.lower().endswith(".json"):
        return [load_json(text, where=path)]
    from dstackd.spec.yaml_text import load_yaml  # noqa: PLC0415 - JSON users do not wait for it

    return load_yaml(path, text)


def _jobs_of(path: str, document: object) -> list[dict[object, object]]:
    if not isinstance(document, dict):
        problem = f"a document is {shown(document)}, not a job"
        raise SpecError([FieldError(path, problem, _ONE_JOB_FIX)])
    if _JOBS not in document:
        return [document]
    if len(document) > 1:
        problem = "stands beside other fields"
        raise SpecError([FieldError(f"{path}: {_JOBS}", problem, "move them into each job")])
    return _members_of(path, document[_JOBS])


def _members_of(path: str, jobs: object) -> list[dict[object, object]]:
    if not isinstance(jobs, list):
        raise SpecError(
            [FieldError(f"{path}: {_JOBS}", f"is {shown(jobs)}", "write a list of jobs")]
        )
    wrong = [index for index, job in enumerate(jobs) if not isinstance(job, dict)]
    if wrong:
        raise SpecError(
            FieldError(
                f"{path}: {_JOBS}[{index}]", f"{shown(jobs[index])} is not a job", _ONE_JOB_FIX
            )
            for index in wrong
        )
    return jobs
