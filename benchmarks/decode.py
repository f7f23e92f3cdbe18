"""Decode and ADM-crop JPEGs: our path beside Pillow's, on the same files, in one run.

    python benchmarks/decode.py [FOLDER] [--count 400] [--size 256] [--repeats 5]

Without a folder it makes JPEGs of 500 x 375 itself. Prints a Markdown table: medians over the repeats (the ways take
turns, so that a busy machine hits all of them), ratios to the Pillow loop, and how many images differ from Pillow's.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import harness
import numpy as np
import PIL
from PIL import Image

from fdr.images import ImageOptions, open_images
from fdr.images.resize import adm_crop
from fdr.runtime import available_cpus


def make_jpegs(folder: Path, count: int) -> Path:
    """Smooth noise of many scales, about as hard to decode as photographs."""
    rng = np.random.default_rng(0)
    for i in range(count):
        layers = [Image.fromarray(rng.integers(0, 256, (3 << k, 4 << k, 3), dtype=np.uint8)) for k in range(7)]
        pixels = sum(np.asarray(layer.resize((500, 375), 3), np.float32) * 0.6**k for k, layer in enumerate(layers))
        pixels = np.clip((pixels - pixels.mean()) / pixels.std() * 60 + 128, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:05}.jpg", quality=90)
    return folder


def original_adm_crop(image: Image.Image, size: int) -> np.ndarray:
    """The crop as usually written: each resize one call of Pillow, whichever order of passes it takes."""
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return np.array(image.crop((left, top, left + size, top + size)))


def pillow(paths: list[Path], size: int | None, crop: Callable[[Image.Image, int], object]) -> Iterator[np.ndarray]:
    """A plain loop."""
    for path in paths:
        with Image.open(path) as file:
            image = file.convert("RGB")
        yield np.array(image if size is None else crop(image, size))


def ours(paths: list[Path], size: int | None, workers: int) -> Iterator[np.ndarray]:
    """Our batches, image by image."""
    options = ImageOptions() if size is None else ImageOptions(crop="adm", size=size)
    for batch in open_images(paths, options).batches(32, num_workers=workers):
        yield from (image.permute(1, 2, 0).numpy() for image in batch.images)


def main() -> None:
    """Parse, measure, print."""
    parser = harness.parser(__doc__, repeats=5)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--size", type=int, default=256)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = args.folder or make_jpegs(Path(made), args.count)
        ids = open_images(folder).ids
        measure(
            [folder / name for name in open_images(folder, ImageOptions(count=min(args.count, len(ids)))).ids], args
        )


def measure(paths: list[Path], args: argparse.Namespace) -> None:
    """One table: decoding alone, then with the crop."""
    cpus = available_cpus()
    print(f"{len(paths)} files, Pillow {PIL.__version__}, {cpus} CPU(s), median of {args.repeats}\n")
    rows, found = [], {}
    for work, size in (("decode", None), (f"decode + ADM crop to {args.size}", args.size)):
        ways: dict[str, Callable[[], Iterator[np.ndarray]]] = {
            "Pillow, a loop": lambda size=size: pillow(paths, size, original_adm_crop),
            "fdr, no threads": lambda size=size: ours(paths, size, 0),
            f"fdr, {cpus} threads": lambda size=size: ours(paths, size, cpus),
        }
        sides = {way: lambda run=run: deque(run(), maxlen=0) for way, run in ways.items()}
        turns = harness.take_turns(sides, args.repeats)
        differ = sum(
            not np.array_equal(a, b)
            for a, b in zip(pillow(paths, size, adm_crop), ours(paths, size, cpus), strict=True)
        )
        base = turns["Pillow, a loop"].wall_s
        found[work] = {way: turn.to_dict() for way, turn in turns.items()} | {"images that differ": differ}
        for way, turn in turns.items():
            cells = [
                f"{len(paths) / turn.wall_s:.0f}",
                f"{base / turn.wall_s:.2f}",
                f"{1000 * turn.cpu_s / len(paths):.2f}",
            ]
            rows.append([work, way, *cells, "" if way.startswith("Pillow") else differ])
    header = ("work", "way", "images/s", "ratio", "CPU ms/image", "images that differ from Pillow's")
    print(harness.table(header, rows, num_text=2))
    harness.write_json(args.json, results=found)


if __name__ == "__main__":
    main()
