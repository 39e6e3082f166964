"""Whether a model's positions fit its weights, its size and its task: measured, said in words, pictured."""
