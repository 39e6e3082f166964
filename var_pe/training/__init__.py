"""The training loop, its tasks and losses, and the run folder."""
