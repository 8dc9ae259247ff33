"""Runs on several real processes that talk over gloo: torch.distributed, Lightning's strategies, and changes of their number."""
