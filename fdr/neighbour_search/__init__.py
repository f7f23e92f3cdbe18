"""Exact nearest neighbours among latents, in bounded memory: docs/neighbour-search.md tells how."""

from fdr.neighbour_search.latent_rows import ArrayRows, LatentRows
from fdr.neighbour_search.plan import SearchPlan
from fdr.neighbour_search.search import Neighbours, SearchOptions, nearest, plan_search

__all__ = ["ArrayRows", "LatentRows", "Neighbours", "SearchOptions", "SearchPlan", "nearest", "plan_search"]
