"""Similarity and retrieval on held-out pairs, beside baselines."""
