"""The lattice compiled from C for the CPU at hand: the whole pass in two calls, skipping every cell that does not fire."""
