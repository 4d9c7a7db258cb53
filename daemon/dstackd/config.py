"""The daemon's configuration: one TOML file, with DSTACKD_SECTION__KEY variables over it.

Law: only the composition root and the command line import it. Everything that is wrong is said at
once, each as `file: key: what is wrong; the fix`; an unknown key or variable is wrong.

To add a key: config_sections.py (default and bounds), config/dstackd.example.toml (what it is for).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Self

from pydantic import BeforeValidator, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from typing_extensions import override

from dstackd.config_paths import (
    CONFIG_VARIABLE,
    DEV_DIRECTORY_VARIABLE,
    LOCAL_NAME,
    SYSTEM_PATH,
    absolute_path,
    absolute_url,
    base_of,
    find_config,
    read_toml,
    socket_path,
)
from dstackd.config_problems import did_you_mean, key_of, sentence, shown
from dstackd.config_sections import (
    Backend,
    Database,
    Ec2LimitsSection,
    Http,
    Inputs,
    LimitsSection,
    Logging,
    Logs,
    Loops,
    Projects,
    Retention,
    Runner,
    Scheduling,
    Section,
    State,
    from_json,
)
from dstackd.core.bounds import Bounds
from dstackd.errors import ConfigError

PREFIX: Final = "DSTACKD_"
SOCKET_PATH_BYTES_MAX: Final = 103
"""sun_path has 104 bytes on macOS and 108 on Linux (unix(7)), the last of them a zero."""

_NO_FILE: Final = f"no configuration file (looked for ./{LOCAL_NAME} and {SYSTEM_PATH})"
_NO_BACKEND: Final = (
    "backends: there is none; add a table [[backends]] with the region and the bucket to use"
)


def _one_at_most(value: object) -> object:
    if isinstance(value, list) and len(value) > 1:
        message = (
            f"names {len(value)} backends, and one daemon serves one so far; keep one, and run "
            "another daemon with its own database for the next"
        )
        raise ValueError(message)
    return value


class Settings(BaseSettings):
    """Every value, checked; paths are absolute. Frozen."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        enable_decoding=False,
        extra="forbid",
        frozen=True,
    )

    database: Database = Database()
    state: State = State()
    http: Http = Http()
    logging: Logging = Logging()
    inputs: Inputs = Inputs()
    loops: Loops = Loops()
    limits: LimitsSection = LimitsSection()
    ec2_limits: Ec2LimitsSection = Ec2LimitsSection()
    scheduling: Scheduling = Scheduling()
    projects: Projects = {}
    runner: Runner = Runner()
    logs: Logs = Logs()
    retention: Retention = Retention()
    backends: Annotated[
        tuple[Backend, ...], BeforeValidator(_one_at_most), BeforeValidator(from_json)
    ] = ()

    @property
    def backend(self) -> Backend:
        """The one backend. Raises ConfigError where none is configured."""
        if not self.backends:
            raise ConfigError(_NO_BACKEND)
        return self.backends[0]

    @property
    def bounds(self) -> Bounds:
        """What jobs may have at a time, with that of the projects."""
        return self.scheduling.for_admission(self.projects)

    @property
    def socket(self) -> Path:
        """The Unix socket of the command line."""
        return Path(self.http.socket)

    @model_validator(mode="after")
    def _heartbeats_fit(self) -> Self:
        needed_s = 2 * self.runner.heartbeat_s + self.loops.heartbeats_s
        if self.limits.heartbeat_timeout_s < needed_s:
            message = (
                f"limits.heartbeat_timeout_s: is {self.limits.heartbeat_timeout_s:g}, so healthy "
                f"machines would count as lost; write {needed_s:g} or more (two runner.heartbeat_s "
                "and one loops.heartbeats_s)"
            )
            raise ValueError(message)
        return self

    @classmethod
    @override
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment over the file, whose tables are the keyword arguments; no other source."""
        del settings_cls, dotenv_settings, file_secret_settings
        return env_settings, init_settings


@dataclass(frozen=True, slots=True)
class Loaded:
    """The settings and where they come from: the file, `key -> variable` of what the environment
    set, and the keys that the file sets (`backends[0].region`).
    """

    settings: Settings
    source: Path | None
    variables: Mapping[str, str]
    written: frozenset[str]


def load_settings(given: Path | None = None, *, needs_backend: bool = True) -> Settings:
    """The settings of the file `given` or of the one that is found, with the environment over it.

    Raises ConfigError whose text has a line for each problem.
    """
    return load(given, needs_backend=needs_backend).settings


def load(given: Path | None = None, *, needs_backend: bool = True) -> Loaded:
    """As `load_settings`, with where the values come from."""
    folder = Path.cwd()
    source = find_config(given, environ=os.environ, folder=folder)
    written = {} if source is None else read_toml(source)
    place = _NO_FILE if source is None else str(source)
    variables, problems = _variables(os.environ)
    settings: Settings | None = None
    try:
        settings = Settings(**written)
    except ValidationError as error:
        problems += _problems(error, place=place, variables=variables)
    if needs_backend and settings is not None and not settings.backends:
        problems.append(f"{place}: {_NO_BACKEND}")
    if settings is not None:
        settings = _absolute(settings, base=base_of(source, folder=folder))
        problems += _unusable_socket(settings, place=place)
    if problems or settings is None:
        raise ConfigError("\n".join(problems))
    keys = frozenset(_keys_in(written, ()))
    return Loaded(settings=settings, source=source, variables=variables, written=keys)


def _keys_in(value: object, location: tuple[int | str, ...]) -> Iterator[str]:
    """The keys of everything that is no table."""
    if isinstance(value, Mapping):
        for name, member in value.items():
            yield from _keys_in(member, (*location, name))
    elif isinstance(value, list) and any(isinstance(member, Mapping) for member in value):
        for at, member in enumerate(value):
            yield from _keys_in(member, (*location, at))
    else:
        yield key_of(location)


def known_keys() -> list[str]:
    """Every key outside [[backends]] and [projects], as `section.key`; and these two, each one of its own."""
    keys: list[str] = []
    for name, field in Settings.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, Section):
            keys += [f"{name}.{key}" for key in section.model_fields]
        else:
            keys.append(name)
    return keys


def _variables(environ: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """`key -> variable` of those that are known, and a problem for each that is not."""
    keys = {PREFIX + key.replace(".", "__").upper(): key for key in known_keys()}
    known = {*keys, CONFIG_VARIABLE, DEV_DIRECTORY_VARIABLE}
    found: dict[str, str] = {}
    problems: list[str] = []
    for variable in sorted(environ):
        if not variable.upper().startswith(PREFIX):
            continue
        if variable.upper() in keys:
            found[keys[variable.upper()]] = variable
        elif variable not in known:
            fix = _near_variable(variable.upper(), known) or "unset it"
            problems.append(f"environment: {variable}: is not a variable of dstackd; {fix}")
    return found, problems


def _near_variable(variable: str, known: Iterable[str]) -> str:
    """Compared without the prefix, which would make all of them alike."""
    names = {name.removeprefix(PREFIX): name for name in known}
    suggestion = did_you_mean(variable.removeprefix(PREFIX), names)
    return suggestion.replace("mean ", f"mean {PREFIX}")


def _problems(error: ValidationError, *, place: str, variables: Mapping[str, str]) -> list[str]:
    problems: list[str] = []
    for each in error.errors(include_url=False):
        key = key_of(each["loc"])
        said = sentence(each, root=Settings)
        variable = next((variables[known] for known in variables if _within(key, known)), None)
        if variable is not None:
            problems.append(f"environment: {variable}: {said}")
        elif not _of_unknown_variable(each["loc"], each["type"]):
            problems.append(f"{place}: {key}: {said}" if key else f"{place}: {said}")
    return problems


def _within(key: str, known: str) -> bool:
    return key == known or key.startswith((f"{known}.", f"{known}["))


def _of_unknown_variable(location: tuple[int | str, ...], kind: str) -> bool:
    """What a variable that is refused by its name has also made wrong."""
    variable = PREFIX + "__".join(str(part) for part in location).upper()
    of_section = any(name.upper().startswith(f"{variable}__") for name in os.environ)
    named = variable in {name.upper() for name in os.environ}
    return (
        (kind == "extra_forbidden" and named)
        or (kind == "tuple_type" and of_section)
        or (kind == "model_type" and named)
    )


def _absolute(settings: Settings, *, base: Path) -> Settings:
    """The settings with every path made absolute."""
    directory = absolute_path(settings.state.directory, base=base)
    socket = socket_path(settings.http.socket, directory=directory, base=base)
    url = absolute_url(settings.database.url, base=base)
    changes: dict[str, Any] = {
        "state": settings.state.model_copy(update={"directory": directory}),
        "http": settings.http.model_copy(update={"socket": str(socket)}),
        "database": settings.database.model_copy(update={"url": url}),
    }
    return settings.model_copy(update=changes)


def _unusable_socket(settings: Settings, *, place: str) -> list[str]:
    path = str(settings.socket)
    if len(os.fsencode(path)) <= SOCKET_PATH_BYTES_MAX:
        return []
    problem = f"{shown(path)} is longer than the {SOCKET_PATH_BYTES_MAX} bytes of a Unix socket"
    return [f"{place}: http.socket: {problem}; write a shorter path"]
