"""Classifiers of several stages, whose maps grow coarser: Swin, CoAtNet, MobileViT, and ladders of one's own.

`lines` reads the stages of a config, `division` cuts maps into parts, `attention` and `blocks` compute in
them, `stages` puts blocks on one map together, `classifier` the stages.
"""
