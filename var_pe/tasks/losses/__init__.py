"""Loss terms of the tasks."""
