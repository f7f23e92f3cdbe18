"""Exact nearest neighbours among latents, in bounded memory: docs/neighbour-search.md explains the method."""

from fdr.ifid.neighbours.latent_rows import ArrayRows, LatentRows
from fdr.ifid.neighbours.plan import SearchPlan
from fdr.ifid.neighbours.search import Neighbours, SearchOptions, nearest, plan_search

__all__ = ["ArrayRows", "LatentRows", "Neighbours", "SearchOptions", "SearchPlan", "nearest", "plan_search"]
