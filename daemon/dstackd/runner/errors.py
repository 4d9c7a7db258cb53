"""What can go wrong on the machine. Law: an error is named for what its catcher does next."""

from __future__ import annotations


class RunnerError(Exception):
    """Root of everything the runner raises on purpose."""


class Unreachable(RunnerError):
    """No answer, or only a part of one: ask again."""


class NoRoom(RunnerError):
    """This machine's disk did not take what came; asking again does not help."""


class AwsError(RunnerError):
    """An AWS API answered with an error; `code` is AWS's own word for it."""

    def __init__(self, code: str, *, status: int, message: str, region: str = "") -> None:
        super().__init__(f"{code} ({status}): {message}")
        self.code = code
        self.status = status
        self.region = region
        """Where the bucket is, when S3 said so (`x-amz-bucket-region`)."""


class StageFailed(RunnerError):
    """The machine cannot run the job; reported as `failed(stage, message)`, then shutdown."""

    def __init__(self, stage: str, message: str, *, final: bool = False) -> None:
        super().__init__(f"{stage}: {message}")
        self.stage = stage
        self.message = message
        self.final = final
        """No other machine could run it either: what is wrong is in the spec, or missing in AWS or a registry."""
