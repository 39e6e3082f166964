"""The tokenizer, the next-scale generator and the ViT classifier."""
