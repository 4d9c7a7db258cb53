"""What runs on the instance: one job, its logs, its artifacts, and the machine's end.

Law: the standard library, `dstackd.protocol`, `dstackd.launch_document` and
`dstackd.artifact_manifest` only; Python 3.9. It travels as a zipapp (`dstackd.bootstrap.zipapp`).
"""

VERSION = "0.1.0"
"""The daemon's version, as the machine tells it; a test holds the two equal."""
