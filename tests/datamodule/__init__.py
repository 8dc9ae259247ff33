"""One decorated datamodule, without a framework."""
