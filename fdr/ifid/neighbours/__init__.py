"""Exact nearest neighbours among latents, in bounded memory: docs/neighbour-search.md explains the method."""

from fdr.ifid.neighbours.block import Neighbours
from fdr.ifid.neighbours.latent_rows import LatentRows
from fdr.ifid.neighbours.plan import SearchPlan, SetSizes
from fdr.ifid.neighbours.search import SearchOptions, nearest, plan_search, sizes_of

__all__ = [
    "LatentRows",
    "Neighbours",
    "SearchOptions",
    "SearchPlan",
    "SetSizes",
    "nearest",
    "plan_search",
    "sizes_of",
]
