"""A 3D cellular neural network in JAX."""
