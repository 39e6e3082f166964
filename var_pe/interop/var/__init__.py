"""The public code of VAR (Tian et al. 2024): its checkpoints as our models, and back."""
