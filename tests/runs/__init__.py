"""The whole product, in real processes and over drawn chains."""
