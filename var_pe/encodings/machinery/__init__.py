"""What the encodings share; the encodings themselves are the files beside this folder.

`line` and `options` read a config's line, `compose` joins encodings with `+`; `codes` and `coordinates` serve
those that are added to tokens or turn them, `turn` turns, `scores` and `level_term` serve those that add to
scores, `convolution` those between blocks; `level` is the generator's level embedding.
"""
