"""What a config amounts to: images, tokens and models made from it; training, drawing, scoring, planning."""
