"""One seal of a folder, as a machine does it, in a process of its own. Law: the runner's own code and
nothing else of the project: `python seal_folder.py URL FOLDER`.
"""

from __future__ import annotations

import sys

from typing_extensions import override

from dstackd.launch_document import ArtifactDocument, JobDocument
from dstackd.runner.credentials import InstanceCredentials
from dstackd.runner.imds import Imds
from dstackd.runner.journal import Journal
from dstackd.runner.s3 import Bucket
from dstackd.runner.sealing import seal
from dstackd.runner.sigv4 import Credentials


class FixedCredentials(InstanceCredentials):
    """The same keys that the AWS CLI has."""

    def __init__(self) -> None:
        """There is no metadata service, and nobody asks one."""
        super().__init__(Imds("http://127.0.0.1"))

    @override
    def current(self) -> Credentials:
        return Credentials("AKIAOFABENCHMARK", "of no meaning")


def main() -> int:
    """Seal the folder; 0 if the set is complete."""
    url, folder = sys.argv[1:]
    bucket = Bucket(
        "a-bucket", region="us-east-1", credentials=FixedCredentials(), endpoint_url=url
    )
    job = JobDocument(
        index=0, job_id="j", attempt=1, commands=(), artifacts=(ArtifactDocument("."),)
    )
    sealed = seal(job, job_dir=folder, bucket=bucket, interrupted=False, journal=Journal())
    print(sealed, file=sys.stderr)
    return 0 if sealed.verdict == "complete" else 1


if __name__ == "__main__":
    sys.exit(main())
