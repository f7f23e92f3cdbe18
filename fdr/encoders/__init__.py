"""Encoders: images [B, 3, H, W] in [0, 1] -> named outputs. See `registry.py` for the names."""
