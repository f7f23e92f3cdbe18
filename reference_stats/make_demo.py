"""Compute `demo-random.h5`, which `fdr demo` checks itself against: python reference_stats/make_demo.py"""

import shutil
import tempfile
from pathlib import Path

from fdr.encoders import load_encoder
from fdr.evaluation import REFERENCE_COUNT, save_images
from fdr.evaluation.demo import REFERENCE_SEED, SAMPLE_COUNT, VALIDATION_SEED, make_reference
from fdr.features import ExtractionOptions
from fdr.images import procedural


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_images(folder / "reference.npz", procedural.draw_set(REFERENCE_SEED, REFERENCE_COUNT))
        save_images(folder / "validation.npz", procedural.draw_set(VALIDATION_SEED, SAMPLE_COUNT))
        make_reference(folder, folder / "stats", load_encoder("random", device="cpu"), ExtractionOptions())
        shutil.copyfile(folder / "stats" / "random.h5", Path(__file__).parent / "demo-random.h5")


if __name__ == "__main__":
    main()
