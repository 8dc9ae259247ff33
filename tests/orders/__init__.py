"""Which index comes at which place."""
