"""From labels to images: turns of a transformer, drawn and decoded."""
