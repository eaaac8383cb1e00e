"""The parameter update compiled from C for the CPU at hand."""
