"""Chat engines, each model in a child process."""
