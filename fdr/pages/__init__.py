"""Pages: reports and run folders as one self-contained HTML page, as a Markdown comment, and as a LaTeX table."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
