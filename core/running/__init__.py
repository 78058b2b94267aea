"""Runs as folders: events, processes, the supervisor."""
