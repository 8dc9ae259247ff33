"""How many samples a step takes, and where it begins and ends."""
