"""What this installation lets jobs do, beyond what a spec may say. Law: judged when a job is taken in, with the reason in the row."""

from __future__ import annotations

from pathlib import Path

from dstackd.packing import UnreadableInput, check_allowed
from dstackd.spec.errors import FieldError, SpecError
from dstackd.spec.model import JobSpec


class Admission:
    """Checks a parsed spec against the installation's settings."""

    def __init__(self, allowed_roots: tuple[Path, ...]) -> None:
        self._allowed_roots = allowed_roots

    def __call__(self, spec: JobSpec) -> None:
        """Raises SpecError naming each field that is not admitted."""
        errors: list[FieldError] = []
        for index, source in enumerate(spec.inputs):
            if source.is_s3:  # the machine's role decides what it may read
                continue
            try:
                check_allowed(source.source, self._allowed_roots)
            except UnreadableInput as error:
                fix = "name an existing path below a folder listed in [inputs] allowed_roots"
                errors.append(FieldError(f"inputs[{index}].source", str(error), fix))
        if errors:
            raise SpecError(tuple(errors))
