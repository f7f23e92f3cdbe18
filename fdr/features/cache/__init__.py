"""The cache of features, which no kill can spoil: entries, shards, what follows from them."""
