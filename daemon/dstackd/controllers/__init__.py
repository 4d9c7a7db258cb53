"""The imperative shell: one loop a file. Law: controllers do not know each other; they meet in the table and through wakes.

Each has `step()`: one pass, callable by itself, returning the seconds until the next one unless its bell rings.
"""
