"""How commands, environment, labels and other lists of text are read.

LAW: values in, tuples out (see reading.py). No message shows the value of a variable: people put
passwords there.
"""

import math
import re

from dstackd.spec import limits
from dstackd.spec.reading import Problems, RefusedError, is_text, key_text, refuse, shown
from dstackd.spec.references import with_known_expressions
from dstackd.spec.scalars import has_control_character, text

Pairs = tuple[tuple[str, str], ...]

_COMMANDS_FIX = 'write a list of shell commands, such as ["python train.py"]'
_ENV_FIX = "write NAME: value, or NAME=value in a list"
_LABELS_FIX = "write a mapping, such as {team: vision}"
_TYPES_FIX = "write EC2 instance types or patterns of them, such as c7g.large or m7i.*"
_NAME_FIX = "use letters, digits, and - _ . or spaces between them"

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_INSTANCE_TYPE = re.compile(r"[a-z0-9*?\[\]!-]+(\.[a-z0-9*?\[\]!-]+)?")
_NOT_IN_NAME = re.compile(r"[^\w. -]+")


def read_name(value: object) -> str:
    """A name that fits a tag, a log line and a table column."""
    given = str(value) if type(value) is int and abs(value) <= limits.NUMBER_MAX else value
    name = text(given, fix=_NAME_FIX, chars_max=limits.NAME_CHARS_MAX)
    if _NOT_IN_NAME.search(name):
        plain = _NOT_IN_NAME.sub("-", name).strip("-_. ")
        refuse(value, "a name", f"write {shown(plain)}: {_NAME_FIX}" if plain else _NAME_FIX)
    if not (name[0].isalnum() and name[-1].isalnum()):
        refuse(value, "a name: it begins and ends with a letter or a digit", _NAME_FIX)
    return name


def read_commands(problems: Problems, path: str, value: object) -> tuple[str, ...]:
    """A list of commands, or one text, of several lines or not, that is one command."""
    if isinstance(value, list | tuple) and not value:
        problems.add(path, "is empty", _COMMANDS_FIX)
    commands = tuple(
        problems.read(at, member, _read_command, "")
        for at, member in problems.items(path, value, items_max=limits.COMMANDS_MAX)
    )
    size_bytes = sum(len(command.encode()) + 1 for command in commands)
    if size_bytes > limits.COMMANDS_BYTES_MAX:
        problems.add(
            path,
            f"holds {size_bytes} bytes",
            f"use at most {limits.COMMANDS_BYTES_MAX}; put long scripts in a file among the inputs",
        )
    return commands


def _read_command(value: object) -> str:
    if isinstance(value, dict):
        fix = "put the command in quotes: in YAML, a colon and a space make a mapping"
        raise RefusedError("is a mapping, not a command", fix)
    if isinstance(value, bool | int | float):
        refuse(value, "text", "put the command in quotes")
    return text(value, fix=_COMMANDS_FIX, chars_max=limits.COMMANDS_BYTES_MAX, lines=True)


def read_env(problems: Problems, path: str, value: object) -> Pairs:
    """A mapping of names to text, numbers or switches, or a list of `NAME=value`; by name."""
    pairs: dict[str, str] = {}
    for name, given in _env_entries(problems, path, value):
        at = f"{path}.{name}"
        if name in pairs:
            problems.add(at, "is there twice", "remove one of them")
        pairs[name] = problems.read(at, given, _read_env_value, "")
    return tuple(sorted(pairs.items()))


def _env_entries(problems: Problems, path: str, value: object) -> list[tuple[str, object]]:
    """Names that are good, with their values as given; the other entries become problems."""
    if isinstance(value, dict):
        given = [(f"{path}.{key_text(key)}", key, each) for key, each in value.items()]
    elif isinstance(value, list | tuple):
        members = problems.items(path, value, items_max=limits.ENV_MAX)
        split = [(at, problems.read(at, each, _split_assignment, None)) for at, each in members]
        given = [(at, *pair) for at, pair in split if pair is not None]
    else:
        problems.add(path, f"{shown(value)} is not a mapping", _ENV_FIX)
        return []
    if len(given) > limits.ENV_MAX:
        problems.add(path, f"has {len(given)} variables", f"give at most {limits.ENV_MAX}")
        return []
    named = [(problems.read(at, name, _read_env_name, ""), each) for at, name, each in given]
    return [(name, each) for name, each in named if name]


def _split_assignment(value: object) -> tuple[object, object] | None:
    if not isinstance(value, str):
        refuse(value, "text", _ENV_FIX)
    name, equals, given = value.partition("=")
    if not equals:
        raise RefusedError("has no =", "write NAME=value; a machine has no variables of yours")
    return name, given


def _read_env_name(value: object) -> str:
    fix = "use letters, digits and _, not beginning with a digit"
    if not isinstance(value, str) or not _ENV_NAME.fullmatch(value):
        refuse(value, "the name of a variable", fix)
    if len(value) > limits.ENV_NAME_CHARS_MAX:
        raise RefusedError("has too long a name", f"use at most {limits.ENV_NAME_CHARS_MAX}")
    if value.startswith(limits.ENV_RESERVED_PREFIX):
        reserved = f"names that begin with {limits.ENV_RESERVED_PREFIX} are reserved"
        raise RefusedError(reserved, "choose another name")
    return value


def _read_env_value(value: object) -> str:
    written = _scalar_text(value)
    if written is None:
        raise RefusedError(
            "is not text, a number (of at most 64 bits), true or false", 'write text: NAME: "value"'
        )
    if not is_text(written) or "\0" in written:
        raise RefusedError("holds a character that no variable can hold", "remove it")
    size_bytes = len(written.encode())
    if size_bytes > limits.ENV_VALUE_BYTES_MAX:
        fix = f"use at most {limits.ENV_VALUE_BYTES_MAX}; put it in a file among the inputs"
        raise RefusedError(f"holds {size_bytes} bytes", fix)
    return with_known_expressions(written)


def _scalar_text(value: object) -> str | None:
    """A scalar as text: true and false in lower case, numbers as JSON writes them."""
    match value:
        case bool():
            return "true" if value else "false"
        case int() if abs(value) <= limits.NUMBER_MAX:
            return str(value)
        case float() if math.isfinite(value):
            return repr(value)
        case str():
            return value
        case _:
            return None


def read_labels(problems: Problems, path: str, value: object) -> Pairs:
    """A mapping of text to text, numbers or switches; in the order of its keys."""
    if not isinstance(value, dict):
        problems.add(path, f"{shown(value)} is not a mapping", _LABELS_FIX)
        return ()
    if len(value) > limits.LABELS_MAX:
        problems.add(path, f"has {len(value)} labels", f"give at most {limits.LABELS_MAX}")
        return ()
    pairs = [
        (
            problems.read(f"{path}.{key_text(key)}", key, _read_label_key, ""),
            problems.read(f"{path}.{key_text(key)}", each, _read_label_value, ""),
        )
        for key, each in value.items()
    ]
    return tuple(sorted(pairs))


def _read_label_key(value: object) -> str:
    return text(value, fix="give the label a name", chars_max=limits.LABEL_KEY_CHARS_MAX)


def _read_label_value(value: object) -> str:
    written = _scalar_text(value)
    if written is None:
        refuse(value, "text", "write text, a number, true or false")
    if len(written) > limits.LABEL_VALUE_CHARS_MAX:
        most = f"use at most {limits.LABEL_VALUE_CHARS_MAX}"
        raise RefusedError(f"is {len(written)} characters long", most)
    if not is_text(written) or has_control_character(written):
        raise RefusedError("holds a control character", "remove it; write it on one line")
    return written


def read_instance_types(problems: Problems, path: str, value: object) -> tuple[str, ...]:
    """Instance types or shell patterns of them."""
    members = problems.items(path, value, items_max=limits.INSTANCE_TYPES_MAX)
    return tuple(problems.read(at, member, _read_instance_type, "") for at, member in members)


def _read_instance_type(value: object) -> str:
    pattern = text(value, fix=_TYPES_FIX, chars_max=limits.INSTANCE_TYPE_CHARS_MAX)
    if not _INSTANCE_TYPE.fullmatch(pattern):
        refuse(value, "an instance type", _TYPES_FIX)
    if "." not in pattern and "*" not in pattern:
        refuse(value, "an instance type", f"write {pattern}.* for the whole family")
    return pattern
