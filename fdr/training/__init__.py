"""Post-training of a generator: steps, the loop, run folders, logs, snapshots; and classifiers trained on samples."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
