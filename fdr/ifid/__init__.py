"""iFID (arXiv 2603.05630): how good are images between an image and its neighbour in an autoencoder's latent space?"""
