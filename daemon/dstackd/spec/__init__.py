"""The job spec: what a submitter asks for, from text to the validated form.

LAW: pure functions of their arguments; no clock, no network, no database, no file access. Only
`yaml_text.py` needs more than the standard library, and it is imported when YAML is read, so that
a client which submits JSON starts fast. `model.py` imports nothing but the standard library.

To change X, open Y:
  a field or a default       model.py (the validated form), parse.py (how it is read), canonical.py
  a limit                    limits.py
  sizes, durations, ranges   units.py
  YAML, several jobs a file  files.py, yaml_text.py
Every field is described for people in `config/job.example.yaml`.
"""
