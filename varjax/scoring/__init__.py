"""From sets of images to scores: reading, descriptors, distances, tables."""
