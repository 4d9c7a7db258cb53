"""A cloud in memory behind the ports. Law: no I/O and no wall clock; the same clock, seed and calls give the same world.

Time passes only when the clock is moved. Before each call the cloud catches up: everything that machines
have done since happens then, in time order, with the times at which it would have happened.
"""
