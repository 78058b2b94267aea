"""Artifacts and what makes them: merge, GGUF conversion, quantisation, measurement, proof."""
