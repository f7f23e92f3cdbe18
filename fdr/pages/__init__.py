"""Pages: reports and run folders as one self-contained HTML page, a Markdown comment, a LaTeX table or a shared format.

Results of other tools can stand beside them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
