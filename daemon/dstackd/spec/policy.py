"""How `retry` and `registry_auth` are read.

LAW: values in, model classes out (see reading.py).
"""

from dstackd.spec import limits
from dstackd.spec.model import RegistryAuth, RetryCause, RetryPolicy
from dstackd.spec.reading import Fields, Problems, RefusedError, refuse, with_key_on
from dstackd.spec.references import is_reference, with_known_expressions
from dstackd.spec.scalars import switch, text, whole_number, word_of
from dstackd.spec.units import duration_s

NO_RETRY = RetryPolicy(on=frozenset(), max_attempts=1)
RETRY_ON_ALL = RetryPolicy(on=frozenset(RetryCause))

_RETRY_FIX = "write true, false or a mapping such as {on: [no-capacity, interruption]}"
_EXIT_CODE_FIX = "write exit codes from 1 to 255, such as [1, 137]"
_PASSWORD_FIX = "refer to a secret, such as ${{ secrets.REGISTRY_PASSWORD }}"  # noqa: S105 - a hint

_cause = word_of(RetryCause)
_attempts = whole_number(
    low=1, high=limits.RETRY_ATTEMPTS_MAX, fix="write a number of attempts, such as 5"
)
_exit_code = whole_number(low=1, high=255, fix=_EXIT_CODE_FIX, expected="an exit code")


def read_retry(problems: Problems, path: str, value: object) -> RetryPolicy:
    """A mapping, or true for every cause, or false for never."""
    if isinstance(value, dict):
        return _read_retry_mapping(problems, path, with_key_on(value))
    return problems.read(path, value, _read_retry_switch, NO_RETRY)


def _read_retry_switch(value: object) -> RetryPolicy:
    if not isinstance(value, bool | str):
        refuse(value, "a retry policy", _RETRY_FIX)
    return RETRY_ON_ALL if switch(value) else NO_RETRY


def _read_retry_mapping(problems: Problems, path: str, value: dict[object, object]) -> RetryPolicy:
    fields = Fields(problems, path, value)
    default = RetryPolicy()
    retry = RetryPolicy(
        on=fields.take_block("on", _read_causes, default.on),
        max_attempts=fields.take("max_attempts", _attempts, default.max_attempts),
        within_s=fields.take("within", duration_s(low_s=1), default.within_s),
        exit_codes=fields.take_block("exit_codes", _read_exit_codes, default.exit_codes),
    )
    fields.refuse_unknown()
    if retry.exit_codes is not None and RetryCause.ERROR not in retry.on:
        problems.add(
            f"{path}.exit_codes",
            "says which errors are tried again, and errors are not",
            "add error to on, or remove exit_codes",
        )
    return retry


def _read_causes(problems: Problems, path: str, value: object) -> frozenset[RetryCause]:
    members = problems.items(path, value, items_max=len(RetryCause))
    causes = [problems.read(at, member, _cause, None) for at, member in members]
    return frozenset(cause for cause in causes if cause is not None)


def _read_exit_codes(problems: Problems, path: str, value: object) -> tuple[int, ...]:
    members = problems.items(path, value, items_max=255)
    if not value:
        problems.add(path, "is empty", _EXIT_CODE_FIX)
    return tuple(sorted({problems.read(at, each, _exit_code, 1) for at, each in members}))


def read_registry_auth(problems: Problems, path: str, value: object) -> RegistryAuth | None:
    """A user name and a reference to the secret that holds the password."""
    if not isinstance(value, dict):
        problems.add(path, "is not a mapping", "write {username: …, password: …}")
        return None
    fields = Fields(problems, path, value)
    auth = RegistryAuth(
        username=fields.require("username", _read_username, fix="write a user name"),
        password=fields.require("password", _read_password, fix=_PASSWORD_FIX),
    )
    fields.refuse_unknown()
    return auth


def _read_username(value: object) -> str:
    name = text(value, fix="write a user name", chars_max=limits.REFERENCE_CHARS_MAX)
    return with_known_expressions(name)


def _read_password(value: object) -> str:
    if not isinstance(value, str) or not is_reference(value):
        raise RefusedError("is not a reference to a secret", _PASSWORD_FIX)
    return value
