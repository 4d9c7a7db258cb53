"""Where moto differs from AWS and it matters here, corrected in one place.

Law: reaches into moto's classes, so it belongs to exactly one version of moto and refuses any
other. Every replaced function says what AWS documents and what moto does instead. What is still
different is listed in ../README.md.
"""

from importlib.metadata import version

from dstackd.local.corrections.state import CloudState

MOTO_VERSION = "5.2.5"


def install(state: CloudState) -> None:
    """Patch moto, once in a process. RuntimeError when moto is not the version this was made for."""
    found = version("moto")
    if found != MOTO_VERSION:
        raise RuntimeError(
            f"the local cloud corrects moto {MOTO_VERSION} and would break moto {found}: "
            f"install moto[server]=={MOTO_VERSION}"
        )
    from dstackd.local.corrections import (  # noqa: PLC0415
        bucket_rules,
        catalogue,
        errors,
        instances,
        spot,
    )
    from dstackd.local.corrections.launches import Launches  # noqa: PLC0415
    from dstackd.local.corrections.logs import LogEvents  # noqa: PLC0415

    errors.install()
    bucket_rules.install()
    catalogue.install(state)
    instances.install(state)
    Launches(state).install()
    spot.install(state)
    LogEvents(state).install()
