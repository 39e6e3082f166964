"""Models that say something of every place of a picture: a classifier's maps, and decoders on them."""
