"""The lattice step as kernels for a GPU."""
