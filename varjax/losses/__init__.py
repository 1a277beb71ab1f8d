"""Losses of stage 1 beyond the pixel error: pure functions of arrays."""
