"""dstackd: insert a row, get an EC2 machine, get the logs, the artifacts and the exit code back.

Imports go down only:
cli -> app -> supervisor -> controllers | http -> store | aws | simulated | local -> clock -> ports -> core -> spec -> protocol -> errors
"""

__version__ = "0.1.0"
