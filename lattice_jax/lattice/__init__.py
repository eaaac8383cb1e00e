"""The cube: grid, cell, step, propagation, surfaces, adapter. It knows no text."""
