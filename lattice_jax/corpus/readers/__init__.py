"""Readers of text that others publish, one room a format."""
