"""Runs on rented machines (HF Jobs): what travels there, how its events come back, and how its results come home."""
