"""The bounds of a spec, each with its reason.

LAW: constants only. A bound is part of the public contract: it may be raised, never lowered.
"""

from typing import Final

KIB: Final = 1024

# A spec travels in a table row, in the launch document and through the API.
SPEC_BYTES_MAX: Final = 256 * KIB
# PyYAML reads about 0.3 MB a second.
SPEC_FILE_BYTES_MAX: Final = KIB * KIB
COMMANDS_BYTES_MAX: Final = 128 * KIB
COMMANDS_MAX: Final = 1000

NAME_CHARS_MAX: Final = 80
ENV_MAX: Final = 500
# Linux refuses to start a program with one variable of 128 KiB or more (MAX_ARG_STRLEN).
ENV_VALUE_BYTES_MAX: Final = 64 * KIB
ENV_NAME_CHARS_MAX: Final = 255
ENV_RESERVED_PREFIX: Final = "DSTACKD_"
LABELS_MAX: Final = 64
LABEL_KEY_CHARS_MAX: Final = 63
LABEL_VALUE_CHARS_MAX: Final = 255

INPUTS_MAX: Final = 100
ARTIFACTS_MAX: Final = 100
# Artifact keys hold a prefix of ours and this path, and S3 keys end at 1,024 bytes.
PATH_BYTES_MAX: Final = 800
# PATH_MAX of Linux, with its final NUL.
SOURCE_BYTES_MAX: Final = 4095

INSTANCE_TYPES_MAX: Final = 50
INSTANCE_TYPE_CHARS_MAX: Final = 64
# Above the largest EC2 instances known (1,920 vCPU, 32 TiB): a larger figure is a slip.
CPU_MAX: Final = 4096
MEMORY_MIB_MAX: Final = 64 * KIB * KIB
GPU_COUNT_MAX: Final = 64
GPU_NAMES_MAX: Final = 20
GPU_NAME_CHARS_MAX: Final = 40
# The images that machines start from need 8 GiB; gp3 volumes of every region hold 16 TiB.
DISK_GIB_MIN: Final = 8
DISK_GIB_MAX: Final = 16 * KIB

PRICE_USD_MAX: Final = 10_000.0
BUDGET_USD_MAX: Final = 10_000_000.0
DURATION_S_MAX: Final = 365 * 86_400
STOP_GRACE_S_MAX: Final = 600
REUSE_S_MAX: Final = 3600
RETRY_ATTEMPTS_MAX: Final = 1000
ARRAY_MAX: Final = 10_000
DEPENDS_ON_MAX: Final = 100
# As the table checks it.
JOB_ID_CHARS_MAX: Final = 64
REFERENCE_CHARS_MAX: Final = 255
# Whole numbers beyond 64 bits have no text that other programs read back alike.
NUMBER_MAX: Final = 2**63 - 1
