"""Products of teachers on a processor's matrix unit, compiled from C."""
