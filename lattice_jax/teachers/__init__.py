"""Frozen language models: text in, embeddings out."""
