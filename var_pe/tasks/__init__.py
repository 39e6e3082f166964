"""What is trained: one file each for tokenizer, generator and classifier, and their losses."""
