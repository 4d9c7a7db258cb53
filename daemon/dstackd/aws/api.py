"""One AWS API, as the rest of aws/ sees it. Law: the only place where a client's method is called.

Every call goes through the table of operations, one to EC2 waits for its turn, and each comes back as
an answer or a CloudError.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any

import anyio

from dstackd.aws.operations import OPERATIONS
from dstackd.aws.pacing import Pacing, machines_of
from dstackd.aws.translation import translating
from dstackd.aws.untyped import Untyped
from dstackd.errors import CloudUnavailable, require

CALL_MAX_S = 240.0
"""With its repeats: sockets have time-outs of their own, but a body that comes byte by byte meets none of them."""

PAGES_MAX = 10_000
"""Ten million instances, keys or log lines: whoever goes on has lost the way."""


class Api:
    """A client of one service, for life."""

    def __init__(self, client: Untyped, *, service: str, pacing: Pacing | None = None) -> None:
        self._client = client
        self._service = service
        self._pacing = pacing
        self._methods: dict[str, str] = {
            operation: method
            for method, operation in client.meta.method_to_api_mapping.items()
            if (service, operation) in OPERATIONS
        }

    async def call(self, operation: str, /, **parameters: Untyped) -> dict[str, Any]:
        """AWS's answer as botocore parses it. Raises any CloudError."""
        name = f"{self._service}:{operation}"
        require(operation in self._methods, f"{name} is not in the table of operations")
        async with self._turn(operation, parameters):
            with translating(name), anyio.fail_after(CALL_MAX_S):
                answer: dict[str, Any] = await getattr(self._client, self._methods[operation])(
                    **parameters
                )
        return answer

    def _turn(
        self, operation: str, parameters: dict[str, Any]
    ) -> AbstractAsyncContextManager[None]:
        if self._pacing is None:
            return nullcontext()
        return self._pacing.turn(operation, machines=machines_of(operation, parameters))

    async def pages(
        self,
        operation: str,
        /,
        *,
        token: tuple[str, str] = ("NextToken", "NextToken"),
        **parameters: Untyped,
    ) -> AsyncIterator[dict[str, Any]]:
        """Every page, one call each. `token`: (name in the answer, name in the next request).

        Only a missing token ends it: pages may be empty. A token that comes back unchanged would go on
        for ever; it is raised as CloudUnavailable.
        """
        in_answer, in_request = token
        name = f"{self._service}:{operation}"
        seen = ""
        for _ in range(PAGES_MAX):
            page = await self.call(operation, **parameters)
            yield page
            following = str(page.get(in_answer) or "")
            if not following:
                return
            if following == seen:
                raise CloudUnavailable(
                    "RepeatedPageToken", "the page token repeats", operation=name
                )
            seen = following
            parameters[in_request] = following
        raise CloudUnavailable("TooManyPages", f"more than {PAGES_MAX} pages", operation=name)
