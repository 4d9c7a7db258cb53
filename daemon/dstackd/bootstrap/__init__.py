"""The daemon's side of a machine's first minute: the static user-data and the runner's zipapp.

Law: builds bytes and text from this package's own files; no cloud, no settings.
"""
