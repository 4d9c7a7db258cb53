"""YAML as people expect it: `on`, `off`, `yes` and `12:30` are text, and no key stands twice.

LAW: the only import of PyYAML. Values are those of JSON: the loader is a SafeLoader with the
scalars of YAML 1.2 in place of those of 1.1, which make numbers of `22:22` and `0755`, dates of
`2024-01-01` and true of `on`.
"""

import re
from collections.abc import Iterator
from typing import Final

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from dstackd.spec.errors import FieldError, SpecError

_TEXT = "tag:yaml.org,2002:str"
_NOT_TEXT: Final = {f"tag:yaml.org,2002:{kind}" for kind in ("bool", "int", "float")}
# Below these fields `1.10` is a version and `true` is a command, never a number or a switch.
_FIELDS_OF_TEXT: Final = {"env", "labels", "commands"}
_PLAIN: Final = (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    ("float", r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+)(?:[eE][-+]?[0-9]+)?", "-+0123456789."),
    ("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", "-+."),
    ("null", r"~|null|Null|NULL", "~nN"),
    ("null", r"", ("",)),
    ("merge", r"<<", "<"),
)
_FIXES: Final = (
    ("'\\t'", "YAML is indented with spaces, not with tabs"),
    ("alias", "put text that begins with * in quotes"),
    ("mapping values are not allowed", 'put text that holds ": " in quotes'),
    ("twice", "remove one of them"),
    (" tag", "remove it, or put text that begins with ! in quotes"),
)


class _SpecLoader(yaml.SafeLoader):
    """A SafeLoader that knows the plain scalars of YAML 1.2 only."""


_SpecLoader.yaml_implicit_resolvers = {}
for _kind, _pattern, _first in _PLAIN:
    _SpecLoader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_kind}", re.compile(rf"(?:{_pattern})\Z"), [*_first]
    )


def load_yaml(path: str, text: str) -> list[object]:
    """The documents of a YAML text that are not empty.

    Raises SpecError whose field is path:line:column, counted from 1.
    """
    try:
        documents = list(_documents(text))
    except yaml.MarkedYAMLError as error:
        raise SpecError([_syntax_error(path, error)]) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        problem = "holds a character that YAML does not allow"
        raise SpecError([FieldError(f"{path}:{line}", problem, "remove it")]) from None
    except (RecursionError, ValueError):
        problem = "is nested too deeply or holds a number that is too long"
        raise SpecError([FieldError(path, problem, "a spec has at most five levels")]) from None
    return [document for document in documents if document is not None]


def _documents(text: str) -> Iterator[object]:
    loader = _SpecLoader(text)
    try:
        while loader.check_node():
            document = loader.get_node()
            if document is not None:
                _prepare(loader, document)
                yield loader.construct_document(document)
    finally:
        loader.dispose()


def _prepare(loader: _SpecLoader, document: Node) -> None:
    """Visit every node once, before merge keys are resolved."""
    seen: set[int] = set()
    waiting = [document]
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, ScalarNode):
            _refuse_tag(loader, node)
        elif isinstance(node, SequenceNode):
            waiting += node.value
        elif isinstance(node, MappingNode):
            _refuse_duplicates(node)
            waiting += [key for key, _ in node.value]
            waiting += [_with_text_members(key, value) for key, value in node.value]


def _refuse_tag(loader: _SpecLoader, node: ScalarNode) -> None:
    """No `!!int abc` and no `!!timestamp`: a scalar is what it looks like, or text."""
    implicit = (node.style is None, True)
    plain = loader.resolve(ScalarNode, node.value, implicit)  # type: ignore[no-untyped-call] # its stub is bare
    if node.tag not in {plain, _TEXT}:
        message = "found a tag that a spec has no use for"
        raise yaml.MarkedYAMLError(problem=message, problem_mark=node.start_mark)


def _refuse_duplicates(node: MappingNode) -> None:
    seen: set[str] = set()
    for key, _ in node.value:
        if isinstance(key, ScalarNode):
            if key.value in seen:
                message = f'found the key "{key.value}" twice'
                raise yaml.MarkedYAMLError(problem=message, problem_mark=key.start_mark)
            seen.add(key.value)


def _with_text_members(key: Node, node: Node) -> Node:
    """The value of `key`; below a field of text, its plain numbers and switches become text."""
    if not isinstance(key, ScalarNode) or key.value not in _FIELDS_OF_TEXT:
        return node
    if isinstance(node, SequenceNode):
        node.value = [_as_text(member) for member in node.value]
    elif isinstance(node, MappingNode):
        node.value = [(name, _as_text(member)) for name, member in node.value]
    return node


def _as_text(node: Node) -> Node:
    """A new node, because an anchor may let the old one stand in another field too."""
    if isinstance(node, ScalarNode) and node.style is None and node.tag in _NOT_TEXT:
        return ScalarNode(_TEXT, node.value, node.start_mark, node.end_mark)
    return node


def _syntax_error(path: str, error: yaml.MarkedYAMLError) -> FieldError:
    mark = error.problem_mark or error.context_mark
    at = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else path
    problem = error.problem or error.context or "cannot be read"
    whole = f"{error.context} {problem}"
    fix = next((fix for part, fix in _FIXES if part in whole), "correct the YAML at that place")
    return FieldError(at, f"is not YAML: {problem}", fix)
