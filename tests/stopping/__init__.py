"""A run that is asked to stop."""
