"""Image sources, what is done to each picture, and the cache of its tokens."""
