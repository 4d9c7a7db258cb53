"""The cloud on this machine: moto's server, corrected, and processes that play instances.

Law: imports nothing. A machine player starts from this package in some 20 ms, so whatever is
imported here is paid by every machine. Import `dstackd.local.cloud` or `dstackd.local.control`.
"""
