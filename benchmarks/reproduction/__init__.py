"""Embeddings through 225 numbers and back: texts, training, figures, page."""
