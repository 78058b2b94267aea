"""Chat data: reading, checking, rendering and masking it."""
