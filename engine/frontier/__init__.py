"""What to ship: every finished model of a character, and the dense one, at every file type, measured alike."""
