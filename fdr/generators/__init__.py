"""Generators of images: loaded from checkpoints, sampled from seeds; `fdr.load_generator` is the way in."""
