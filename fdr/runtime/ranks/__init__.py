"""Processes joined to one run: who they are, what they tell each other, sums over all of them."""
