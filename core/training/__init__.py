"""Recipes, presets, hardware, and the training worker."""
