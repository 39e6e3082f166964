"""Studies over encodings and seeds: what is trained, how it is compared, the report."""
