"""AWS's answers on the machine: lists of objects, errors, notices, batches of logs. RunnerError or a value, and in no time."""

from __future__ import annotations

from contextlib import suppress

from dstackd.runner.aws import _error
from dstackd.runner.errors import RunnerError
from dstackd.runner.notice import read_notice, read_rebalance
from dstackd.runner.s3_listing import read_page
from dstackd.runner.wire import Answer

SAMPLES = (
    (
        b"<ListBucketResult><EncodingType>url</EncodingType><IsTruncated>true</IsTruncated><Contents><Key>a%2Fb+c</Key>"
        b"<Size>3</Size><ETag>&quot;e&quot;</ETag></Contents><NextContinuationToken>t</NextContinuationToken>"
        b"</ListBucketResult>"
    ),
    b"<Error><Code>SlowDown</Code><Message>m</Message></Error>",
    b'{"__type":"com.amazonaws#ThrottlingException","message":"m"}',
    b'{"action":"terminate","time":"2026-01-02T03:04:05Z"}',
    b'{"noticeTime":"2026-01-02T03:04:05Z"}',
)


def run(content: bytes) -> None:
    """See the module."""
    with suppress(RunnerError):
        for listed in read_page(content)[0]:
            assert listed.size >= 0
            assert listed.key
    error = _error(Answer(400, {}, content))
    assert error.code
    assert len(str(error)) <= 3_000
    text = content.decode(errors="replace")
    with suppress(ValueError, KeyError, TypeError):
        read_notice(text, now=0.0)
    with suppress(ValueError, KeyError, TypeError):
        read_rebalance(text)
