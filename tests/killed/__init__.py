"""Training processes that are really killed."""
