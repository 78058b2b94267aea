"""The embedded default: a starter model, demo data, and the scripts that made them."""
