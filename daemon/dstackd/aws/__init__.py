"""AWS through aiobotocore, and nothing else does.

Law: implements the ports, decides nothing about jobs. Every operation is a row of `operations.py`,
every error code a row of `error_table.py`; `backend.open_backend` is the way in.
"""
