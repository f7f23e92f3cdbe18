"""Statistics files: the moments and features that any tool of the field stores, recognised by content."""

from fdr.references.formats.base import Entry, StatisticsFile
from fdr.references.formats.registry import check_target, is_statistics_file, open_statistics

__all__ = ["Entry", "StatisticsFile", "check_target", "is_statistics_file", "open_statistics"]
