"""The project itself: its layers, its imports, its types, its README and its metadata."""
