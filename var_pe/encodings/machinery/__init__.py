"""What the members share: the config line, composition, coordinates, levels, scores, rotation."""
