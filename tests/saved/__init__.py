"""What is saved, its file, and how it is compared."""
