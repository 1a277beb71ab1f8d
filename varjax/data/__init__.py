"""From images in files to batches of pixels or of codes."""
