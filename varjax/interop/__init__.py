"""Official VAR checkpoints in and out; files of weights, read safely."""
