"""What reports share: HTML pages from templates, charts, tables of text, numbers written out."""
