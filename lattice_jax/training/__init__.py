"""Losses, objectives and the one training loop."""
