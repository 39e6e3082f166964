"""Next-scale image generation in which the position encoding is one line of the config.

Letters in names give shapes, capitals for the whole pyramid, lower case for one level:
`B` images, `L` tokens of the pyramid, `l` tokens of one level, `C` model width, `H` heads, `D` head width,
`V` codebook size, `Z` latent channels, `h w` a grid's sides, `N` layers.

Sets GOMP_SPINCOUNT unless it or OMP_WAIT_POLICY is set: how often a thread of GNU's OpenMP looks whether
there is work before it lets go of its core. By itself it looks 300,000 times; where other programs are busy,
it takes cores from the very threads that it waits for. The library reads the variable when torch loads it, so
scripts import this package first. No number that is computed depends on it.
"""

import os

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
