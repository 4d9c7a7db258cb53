"""Our signer and botocore's agree."""

from __future__ import annotations

import pytest
from botocore.auth import S3SigV4Auth, SigV4Auth  # type: ignore[import-untyped]
from botocore.awsrequest import AWSRequest  # type: ignore[import-untyped]
from botocore.credentials import (  # type: ignore[import-untyped]
    Credentials as BotoCredentials,
)
from hypothesis import given
from hypothesis import strategies as st

from dstackd.runner import sigv4

STAMP = "20260131T235958Z"
printable = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=12)
# Leading and double slashes would be normalised by the URL parser that botocore uses.
keys = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(
    lambda key: not key.startswith("/")
)
queries = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8),
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8),
    max_size=4,
)
header_names = st.from_regex(r"x-amz-[a-z]{1,8}", fullmatch=True)
headers = st.dictionaries(
    header_names.filter(lambda name: name != "x-amz-date"), printable.map(str.strip), max_size=3
)


def signature_by_botocore(
    request: sigv4.Request, credentials: sigv4.Credentials, *, name: str
) -> str:
    """The Authorization header that botocore makes, at the same instant."""
    query = sigv4.encode_query(request.query)
    url = f"https://{request.host}{request.path}" + (f"?{query}" if query else "")
    asked = AWSRequest(request.method, url, headers=dict(request.headers), data=request.body)
    asked.context["timestamp"] = STAMP
    kind = S3SigV4Auth if name == "s3" else SigV4Auth
    auth = kind(
        BotoCredentials(
            credentials.access_key_id, credentials.secret_access_key, credentials.session_token
        ),
        name,
        "eu-central-1",
    )
    if credentials.session_token:
        asked.headers["X-Amz-Security-Token"] = credentials.session_token
    if name == "s3":
        asked.headers["X-Amz-Content-SHA256"] = auth.payload(asked)
    asked.headers["X-Amz-Date"] = STAMP
    to_sign = auth.string_to_sign(asked, auth.canonical_request(asked))
    auth._inject_signature_to_request(asked, auth.signature(to_sign, asked))
    return str(asked.headers["Authorization"])


@st.composite
def requests(draw: st.DrawFn, name: str) -> sigv4.Request:
    """What the runner may send to S3, or, with the path `/`, to another API."""
    return sigv4.Request(
        method=draw(st.sampled_from(["GET", "PUT", "POST", "HEAD", "DELETE"])),
        path=sigv4.encode_path(f"/{draw(keys)}") if name == "s3" else "/",
        host="a-bucket.s3.eu-central-1.amazonaws.com",
        query=tuple(draw(queries).items()),
        headers=draw(headers),
        body=draw(st.binary(max_size=64)),
    )


@pytest.mark.parametrize("name", ["s3", "logs"])
@given(drawn=st.data(), secret=printable, token=st.sampled_from(["", "a/token+with=signs"]))
def test_signatures_equal_botocores(
    name: str, drawn: st.DataObject, secret: str, token: str
) -> None:
    """Whatever is asked, the two signers give the same Authorization header."""
    credentials = sigv4.Credentials("AKIDEXAMPLE", secret, token)
    request = drawn.draw(requests(name))
    signed = sigv4.sign(
        request, credentials=credentials, region="eu-central-1", service=name, amz_date=STAMP
    )
    assert signed["authorization"] == signature_by_botocore(request, credentials, name=name)
