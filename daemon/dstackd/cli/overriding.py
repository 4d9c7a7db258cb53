"""`override` for the type checker alone.

Law: free at run time. Importing typing_extensions costs 20 ms, and Python 3.11 has no other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

__all__ = ["override"]

Method = TypeVar("Method")

if TYPE_CHECKING:
    from typing_extensions import override
else:

    def override(method: Method) -> Method:
        """The method itself."""
        return method
