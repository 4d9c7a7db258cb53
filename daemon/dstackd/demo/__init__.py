"""`dstackd demo`: real jobs on a cloud of this machine, watched by a person and checked at the end.

Law: an outsider. It starts the cloud and the daemon as processes, inserts rows as any application
would, and reads what anybody may read: the table, the daemon's socket, the bucket, the cloud's own
list of machines. It imports no part of the daemon that decides anything.

To change X, open Y:
  what the jobs are               jobs.py, texts.py
  the loops' speed, the bucket    config_file.py
  what is expected of the jobs    expectations.py
  lines without a terminal        plain.py
  the live table                  live.py
  the tables at the end           report.py
"""
