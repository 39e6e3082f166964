"""Next-scale image generation in which the position encoding is one line of the config.

Letters in names give shapes, capitals for the whole pyramid, lower case for one level:
`B` images, `L` tokens of the pyramid, `l` tokens of one level, `C` model width, `H` heads, `D` head width,
`V` codebook size, `Z` latent channels, `h w` a grid's sides, `N` layers.
"""
