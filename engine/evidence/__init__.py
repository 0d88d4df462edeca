"""Is it still the character? Speakers are asked, measures make numbers of what they say, runs are compared with the dense model."""
