"""The name for values that botocore hands over. Law: botocore and aiobotocore ship no types; this says where that shows."""

from __future__ import annotations

from typing import Any, TypeAlias

Untyped: TypeAlias = Any
