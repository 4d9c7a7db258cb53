"""Decisions. Law: standard library only; no I/O, no clock, no randomness, no async, no logging."""
