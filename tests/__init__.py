"""The rules of the package, one test each."""
