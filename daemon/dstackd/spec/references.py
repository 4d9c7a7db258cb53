"""How a text refers to secrets: `${{ secrets.NAME }}`, alone or among other text, once or several times.

LAW: text only; what a name stands for is known on the machine alone. No message shows the text around
a reference.
"""

from dstackd.protocol import EXPRESSION, EXPRESSION_ESCAPED
from dstackd.spec.reading import RefusedError

_FIX = (
    "write ${{ secrets.NAME }} with letters, digits and / _ + = . @ - in the name, "
    "or $${{ for ${{ itself"
)


def with_known_expressions(written: str) -> str:
    """The text as it is; refused where it has a `${{` that is no reference to a secret."""
    for found in EXPRESSION.finditer(written):
        if found.group(1) is None and found.group() != EXPRESSION_ESCAPED:
            raise RefusedError("has an expression that is no reference to a secret", _FIX)
    return written


def is_reference(written: str) -> bool:
    """Whether the text is one reference and nothing else."""
    found = EXPRESSION.fullmatch(written)
    return found is not None and found.group(1) is not None
