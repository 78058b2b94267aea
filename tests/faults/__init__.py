"""Faults on purpose: kills at every moment, full disks, damaged files."""
