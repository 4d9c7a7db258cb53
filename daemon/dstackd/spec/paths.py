"""How paths, inputs and artifacts are read.

LAW: text only; nothing here looks at a disk. Whatever a machine writes or reads stays inside the
job's folder: relative, without `..`.
"""

import posixpath
import re

from dstackd.spec import limits
from dstackd.spec.model import ArtifactSpec, InputSpec
from dstackd.spec.reading import Fields, Problems, RefusedError, refuse
from dstackd.spec.scalars import text
from dstackd.spec.units import duration_s

_INSIDE_FIX = "write a path inside the job's folder, such as out/results"
_INPUT_FIX = "write source:target, such as ./data:data, or {source: /abs/path, target: data}"
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_S3 = "s3://"
_S3_SOURCE = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/.*)?", re.DOTALL)
_S3_FIX = "write s3://bucket/prefix: a bucket's name has 3 to 63 of a-z, 0-9, - and ."
_NOT_READ = InputSpec(source="", target="")


def relative_path(value: object) -> str:
    """A normalised path inside the job's folder (`.` is the folder itself); globs are kept."""
    path = text(value, fix=_INSIDE_FIX, chars_max=limits.PATH_BYTES_MAX)
    if len(path.encode()) > limits.PATH_BYTES_MAX:
        raise RefusedError("is too long", f"use at most {limits.PATH_BYTES_MAX} bytes")
    if path.startswith("/"):
        refuse(value, "relative", _INSIDE_FIX)
    if ".." in path.split("/"):
        raise RefusedError(f"{_quoted(path)} leads out of the job's folder by ..", _INSIDE_FIX)
    normal = posixpath.normpath(path)
    if normal.startswith("~"):
        raise RefusedError("starts with ~, which is not expanded", _INSIDE_FIX)
    return normal


def _quoted(path: str) -> str:
    return f'"{path}"'


def read_artifacts(problems: Problems, path: str, value: object) -> tuple[ArtifactSpec, ...]:
    """`out/`, `results/*.csv`, `{path: …}`, or a list of these."""
    artifacts: list[ArtifactSpec] = []
    for at, member in problems.items(path, value, items_max=limits.ARTIFACTS_MAX):
        artifact = _read_artifact(problems, at, member)
        if artifact.path and artifact.path in {seen.path for seen in artifacts}:
            problems.add(at, f"{_quoted(artifact.path)} is there twice", "remove one of them")
        artifacts.append(artifact)
    return tuple(artifacts)


def _read_artifact(problems: Problems, path: str, value: object) -> ArtifactSpec:
    if not isinstance(value, dict):
        return ArtifactSpec(problems.read(path, value, relative_path, ""))
    fields = Fields(problems, path, value)
    artifact = ArtifactSpec(
        path=fields.require("path", relative_path, fix=_INSIDE_FIX),
        every_s=fields.take("every", duration_s(low_s=1), None),
    )
    fields.refuse_unknown()
    return artifact


def read_inputs(problems: Problems, path: str, value: object) -> tuple[InputSpec, ...]:
    """`./data:data`, `./data` (the target is its last part), `s3://bucket/prefix:data`,
    `{source: …, target: …}`.
    """
    inputs: list[InputSpec] = []
    for at, member in problems.items(path, value, items_max=limits.INPUTS_MAX):
        source = _read_input(problems, at, member)
        if source.target and source.target in {seen.target for seen in inputs}:
            problems.add(at, f"{_quoted(source.target)} is the target of two inputs", "change one")
        inputs.append(source)
    return tuple(inputs)


def _read_input(problems: Problems, path: str, value: object) -> InputSpec:
    if isinstance(value, dict):
        return _read_input_mapping(problems, path, value)
    return problems.read(path, value, _read_input_text, _NOT_READ)


def _read_input_mapping(problems: Problems, path: str, value: dict[object, object]) -> InputSpec:
    fields = Fields(problems, path, value)
    source_text = fields.require("source", _source, fix=_INPUT_FIX)
    target = fields.take("target", relative_path, "")
    fields.refuse_unknown()
    if not target and source_text and fields.raw("target") is None:
        target = problems.read(path, source_text, _target_of, "")
    return InputSpec(source=source_text, target=target)


def _read_input_text(value: object) -> InputSpec:
    written = text(value, fix=_INPUT_FIX, chars_max=2 * limits.SOURCE_BYTES_MAX)
    scheme = _SCHEME.match(written)
    start = scheme.end() if scheme else 0
    path, colon, target = written[start:].partition(":")
    source = _source(written[:start] + path)
    if ":" in target:
        refuse(value, "an input: it has more than one colon", _INPUT_FIX)
    return InputSpec(source, relative_path(target) if colon else _target_of(source))


def _source(value: object) -> str:
    source = text(value, fix=_INPUT_FIX, chars_max=limits.SOURCE_BYTES_MAX)
    if len(source.encode()) > limits.SOURCE_BYTES_MAX:
        raise RefusedError("is too long", f"use at most {limits.SOURCE_BYTES_MAX} bytes")
    if source.startswith("~"):
        raise RefusedError("starts with ~, which is not expanded", "write the whole path")
    if _SCHEME.match(source) and not source.startswith(_S3):
        refuse(value, "a path of the control host", "download it in the job's commands")
    if source.startswith(_S3) and not _S3_SOURCE.fullmatch(source):
        refuse(value, "an S3 source", _S3_FIX)
    return source


def _target_of(source: object) -> str:
    """Where an input goes that names no target: the last part of its source."""
    name = posixpath.basename(posixpath.normpath(str(source)))
    if name in {"", ".."}:
        refuse(source, "a source with a name", f"give the target too: {source}:data")
    return relative_path(name)
