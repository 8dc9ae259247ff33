"""What several test files share: harnesses, references, stand-ins and the killing of processes."""
