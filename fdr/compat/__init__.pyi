from .fd_evaluator import compute_metrics as compute_metrics
from .fd_evaluator import format_results as format_results
from .fd_evaluator import list_bundles as list_bundles
from .fd_evaluator import list_extractors as list_extractors
from .nanogen_statistics import list_references as list_references
