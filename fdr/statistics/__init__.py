"""Statistics files: the moments and features that any tool of the field stores, recognised by content."""

from fdr.statistics.base import Entry, StatisticsFile
from fdr.statistics.registry import check_target, is_statistics_file, open_statistics

__all__ = ["Entry", "StatisticsFile", "check_target", "is_statistics_file", "open_statistics"]
