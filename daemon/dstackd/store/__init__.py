"""The only SQL. Law: rows do not leave this package; what comes out is frozen and validated.

Every write runs in one short transaction that begins IMMEDIATE; nothing here waits for the network.
"""
