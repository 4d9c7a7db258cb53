"""The secrets of one job. Law: values live in memory only; no error, no repr and no file has one.

A secret NAME of a spec is the secret `/dstack/BUCKET/secrets/NAME` of the region's Secrets Manager, read
with the machine's role (GetSecretValue, API reference).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, NoReturn

from dstackd import protocol
from dstackd.launch_document import JobDocument
from dstackd.runner.aws import AwsApi
from dstackd.runner.credentials import InstanceCredentials
from dstackd.runner.errors import AwsError, RunnerError, StageFailed
from dstackd.runner.masking import Masker
from dstackd.runner.s3 import service_url

STAGE = "secrets"
PATIENCE_S = 60.0
"""A new role's permissions are seen everywhere only after some seconds."""
_AT_ONCE = 8
_NOT_THERE = "ResourceNotFoundException"
_DENIED = frozenset({"AccessDenied", "AccessDeniedException"})


class Secrets:
    """Values by name, and texts that refer to them. Not a dataclass: that would show them in its repr."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = dict(values)
        self.masker = Masker(self._values.values())

    def resolve_text(self, text: str) -> str:
        """The text with its references replaced and `$${{` as `${{`."""
        pieces, end = [], 0
        for found in protocol.EXPRESSION.finditer(text):
            pieces += [text[end : found.start()], self._meaning(found.group(), found.group(1))]
            end = found.end()
        return "".join([*pieces, text[end:]])

    def resolve(self, environment: Mapping[str, str]) -> dict[str, str]:
        """An environment with each value resolved."""
        return {name: self.resolve_text(text) for name, text in environment.items()}

    def are_in(self, texts: Iterable[str]) -> bool:
        """Whether any of the texts holds any of the values."""
        values = [value for value in self._values.values() if value]
        return any(value in text for text in texts for value in values)

    def _meaning(self, written: str, name: str | None) -> str:
        if name is not None:
            return self._values[name]
        return written[1:] if written == protocol.EXPRESSION_ESCAPED else written


def secrets_api(
    *, region: str, credentials: InstanceCredentials, environ: Mapping[str, str]
) -> AwsApi:
    """Secrets Manager in this region, or at the endpoint that the environment asks for."""
    variable = "AWS_ENDPOINT_URL_SECRETS_MANAGER"
    url = service_url(environ, variable, name="secretsmanager", region=region)
    return AwsApi("secretsmanager", url=url, region=region, credentials=credentials)


def read_secrets(job: JobDocument, *, bucket: str, region: str, api: AwsApi) -> Secrets:
    """Every secret that the job refers to, each read once. Raises StageFailed, which names all that
    cannot be read.
    """
    names = sorted(set(_names(job)))
    if not names:
        return Secrets({})
    reader = _Reader(api, bucket=bucket, region=region)
    with ThreadPoolExecutor(min(_AT_ONCE, len(names))) as pool:
        answers = list(pool.map(reader.read, names))
    problems = [answer for answer in answers if isinstance(answer, _Problem)]
    if problems:
        words = "; ".join(problem.text for problem in problems)
        raise StageFailed(STAGE, words, final=any(problem.final for problem in problems))
    return Secrets(
        {name: answer for name, answer in zip(names, answers) if isinstance(answer, str)}
    )


def _names(job: JobDocument) -> Iterator[str]:
    auth = job.container.registry_auth if job.container else None
    texts = [*job.env.values(), *((auth.username, auth.password) if auth else ())]
    for text in texts:
        for found in protocol.EXPRESSION.finditer(text):
            if found.group(1) is not None:
                yield found.group(1)


class _Problem(NamedTuple):
    """What is wrong with one secret and what to do; `final` when it is not there, for any machine."""

    text: str
    final: bool = False


class _Reader:
    """Reads one secret at a time; from several threads."""

    def __init__(self, api: AwsApi, *, bucket: str, region: str) -> None:
        self._api = api
        self._bucket = bucket
        self._region = region

    def read(self, name: str) -> str | _Problem:
        """The value, or what is wrong."""
        full_name = protocol.secret_name(self._bucket, name)
        try:
            return _usable(self._ask(full_name))
        except AwsError as error:
            return self._problem(name, full_name, error)
        except (RunnerError, _Unusable) as error:
            return _Problem(f"{name}: {error}")

    def _ask(self, full_name: str) -> dict[str, object]:
        asked = json.dumps({"SecretId": full_name}).encode()
        answer = self._api.call_json("secretsmanager.GetSecretValue", asked, patience_s=PATIENCE_S)
        return _fields(answer)

    def _problem(self, name: str, full_name: str, error: AwsError) -> _Problem:
        if error.code == _NOT_THERE:
            what = (
                f"{name} is not there: aws secretsmanager create-secret --region {self._region} "
                f"--name {full_name} --secret-string ..."
            )
            return _Problem(what, final=True)
        if error.code in _DENIED:
            what = f"the machine's role may not read {full_name} (or its KMS key): {error}"
            return _Problem(f"{name}: {what}")
        return _Problem(f"{name}: {error}")


class _Unusable(Exception):
    """A secret that cannot be the text of a variable; says why, not what it is."""


def _fields(body: bytes) -> dict[str, object]:
    try:
        value = protocol.load_json(body)
    except ValueError:
        _refuse("the answer is not JSON")
    if not isinstance(value, dict):
        _refuse("the answer is not an object")
    return value


def _usable(answer: Mapping[str, object]) -> str:
    value = answer.get("SecretString")
    if not isinstance(value, str):
        _refuse("it is binary: store it as text (--secret-string), in base64 if need be")
    if not value:
        _refuse("it is empty")
    if "\0" in value:
        _refuse("it holds a NUL character, which no variable can")
    try:
        value.encode()
    except UnicodeEncodeError:
        _refuse("it holds half of a surrogate pair, which is no character")
    return value


def _refuse(why: str) -> NoReturn:
    # Without what was being handled: json and codecs show what they could not read.
    raise _Unusable(why) from None
