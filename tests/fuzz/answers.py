"""Answers that AWS never gives: a proxy's page, half a document, a bomb, a redirect that leads back. Law: bytes only."""

from __future__ import annotations

from tests.fuzz.hostile import DEEP
from tests.fuzz.odd_server import http

_LAUGHS = (
    b'<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "ha">'
    + b"".join(b'<!ENTITY %c "%s">' % (98 + at, (b"&%c;" % (97 + at)) * 10) for at in range(9))
    + b"]><DescribeInstancesResponse>&j;</DescribeInstancesResponse>"
)
_EXTERNAL = (
    b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>'
    b"<ListBucketResult><Contents><Key>&e;</Key></Contents></ListBucketResult>"
)
_XML_ERROR = b"<Error><Code>InternalError</Code><Message>m</Message></Error>"
_EC2_ERROR = (
    b"<Response><Errors><Error><Code>C</Code><Message>m</Message></Error></Errors></Response>"
)

ANSWERS: dict[str, bytes] = {
    "nothing": b"",
    "no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
    "half a head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "empty": http(b""),
    "no content": b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n",
    "a page": http(
        b"<html><body>Welcome to the hotel</body></html>", headers=("Content-Type: text/html",)
    ),
    "a page that is no XML": http(b"<!doctype html><p>sign in<br>"),
    "a page with an error": http(b"<html>bad gateway</html>", status=502),
    "half a document": b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\nConnection: close\r\n\r\n<ListBucketResult><Cont",
    "another document": http(b"<?xml version='1.0'?><FooResponse><bar/></FooResponse>"),
    "an error with 200": http(_XML_ERROR),
    "EC2's error with 200": http(_EC2_ERROR),
    "an error without a code": http(b"<Error/>", status=400),
    "an error that is none": http(b"<Response><Errors/></Response>", status=400),
    "an error that is a number": http(b"7", status=400),
    "an error that is a list": http(b'{"__type": ["x"], "message": {"a": 1}}', status=400),
    "an error with a long message": http(
        b"<Error><Code>C</Code><Message>" + b"m" * 100_000 + b"</Message></Error>", status=400
    ),
    "JSON for XML": http(b'{"events": []}', headers=("Content-Type: application/json",)),
    "JSON of another kind": http(b'{"events": {"a": 1}, "nextToken": 7}'),
    "JSON that is no object": http(b"[1, 2]"),
    "JSON with null": http(b'{"events": [null]}'),
    "JSON without the fields": http(b'{"events": [{"eventId": 1}]}'),
    "NaN": http(b'{"events": [{"timestamp": NaN}]}'),
    "a deep JSON": http(b"[" * DEEP),
    "a deep XML": http(b"<a>" * DEEP),
    "a billion laughs": http(_LAUGHS),
    "an external entity": http(_EXTERNAL),
    "an odd encoding": http(b'<?xml version="1.0" encoding="UTF-9"?><a/>'),
    "UTF-16": http("<?xml version='1.0'?><a/>".encode("utf-16")),
    "NULs": http(b"\0" * 1000),
    "no UTF-8": http(b"\xff\xfe\xfa<a>\xff</a>"),
    "a redirect": b"HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n",
    "a redirect to nowhere": b"HTTP/1.1 307 X\r\nLocation: ftp://localhost/\r\nContent-Length: 0\r\n\r\n",
    "a redirect without a place": b"HTTP/1.1 301 X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    "S3's redirect": http(
        b"<Error><Code>PermanentRedirect</Code><Endpoint>x.s3.amazonaws.com</Endpoint></Error>",
        status=301,
    ),
    "S3's redirect with a region": http(
        b"<Error><Code>PermanentRedirect</Code></Error>",
        status=301,
        headers=("x-amz-bucket-region: mars-1",),
    ),
    "another region": http(
        b"<Error><Code>AuthorizationHeaderMalformed</Code><Region>mars-1</Region></Error>",
        status=400,
    ),
    "a thousand headers": http(b"", headers=tuple(f"X-{n}: y" for n in range(1000))),
    "a long header": http(b"", headers=("X: " + "y" * 200_000,)),
    "a header that is none": http(b"", headers=("no colon",)),
    "headers of another kind": http(
        b"", headers=("Last-Modified: yesterday", "ETag: ", "x-amz-checksum-sha256: !!")
    ),
    "headers that are no text": b"HTTP/1.1 200 OK\r\nETag: \xff\xfe\r\nContent-Length: 0\r\n\r\n",
    "a negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nabc",
    "a length that is none": b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\nabc",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 3\r\n\r\nabc",
    "a chunk that is none": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n",
    "a huge chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nabc",
    "packed, it says": http(b"not packed", headers=("Content-Encoding: gzip",)),
    "a status of its own": http(b"", status=999),
    "switching protocols": b"HTTP/1.1 101 X\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
}
