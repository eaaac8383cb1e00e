"""Questions, answers and sentences, and their division."""
