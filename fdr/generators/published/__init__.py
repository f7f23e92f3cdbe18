"""Architectures of published generators: JiT, pMF, iMF."""
