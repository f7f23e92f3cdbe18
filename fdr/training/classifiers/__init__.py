"""Classifiers that are trained from scratch on samples and tested on real images: CAS and NAS."""
