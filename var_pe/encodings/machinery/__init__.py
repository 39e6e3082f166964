"""What the members share: the line's language, codes, coordinates, scores and turns. No member is in here."""
