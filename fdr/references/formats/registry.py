"""The formats of statistics by name. A new one is a file beside this one and a line in `FORMATS`. Imports no NumPy."""

from __future__ import annotations

FORMATS: dict[str, tuple[str, ...]] = {
    "npz": ("npz", "adm", "fdloss", "clean-fid", "dgm-eval", "clean-fid-kid"),
    "hdf5": ("h5",),
    "torch_file": ("torch-fidelity",),
    "pickles": ("edm2",),
    "npy": ("npy",),
}
"""Module in this folder -> the layouts that it writes. A file belongs to the first format that recognises it."""
LAYOUTS = tuple(layout for layouts in FORMATS.values() for layout in layouts)
