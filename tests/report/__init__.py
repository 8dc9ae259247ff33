"""What a run trained, as a table and as a picture."""
