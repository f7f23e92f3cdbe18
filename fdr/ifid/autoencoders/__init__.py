"""Autoencoders: weight-free transforms, diffusers models, programs, factories and objects as one kind of object."""
