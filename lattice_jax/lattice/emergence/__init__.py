"""Emergence measured: what cells do together, each figure with a definition, a range, a source and a null model."""
