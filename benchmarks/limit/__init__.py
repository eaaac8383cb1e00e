"""What limits the cube: the experiments of `benchmarks/limits.py`, one room each."""
