"""The arms of the studies, and their table."""
