"""The page that a run leaves, and the one that compares runs: read a folder, draw, write one HTML file."""
