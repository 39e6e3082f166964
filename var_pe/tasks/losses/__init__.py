"""Loss terms of the tasks, one file for each thing that is compared."""
