"""From a config to images, tokens and models; training, drawing, scoring and planning with them."""
