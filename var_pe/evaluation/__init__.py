"""Feature extractors and the scores computed from their features."""
