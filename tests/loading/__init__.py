"""DataLoaders that start where they are told."""
