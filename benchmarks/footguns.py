"""How far the usual footguns move FD, on photographs: one thing changed at a time, everything else held.

    python benchmarks/footguns.py --photos DIR --weights squeezenet1_1.safetensors [--arrays SAMPLES REFERENCE]
                                  [--other-pillow DIR] [--toml FILE]

The weights are SqueezeNet 1.1's under torchvision's key names; the features are the 512-d mean after the last fire
module. The reference are photos cropped to 256 px; the samples are imperfect copies of the same photos, as from a good
and from a weak decoder (`near` and `far`: details lost, a little noise), so that FD is what the imperfection makes and
not the bias of few images. A change counts on both sides (two runs that differ in it) or on the samples alone (as
against a reference made elsewhere). The effect of N is measured on `--arrays`, two npz files of many small images
without an image in common. `--other-pillow` is a folder of `pip install --target DIR pillow==...`.

Prints the Markdown table of docs/footguns.md and, with --toml, writes the file that `fdr compare` reads.
"""

from __future__ import annotations

import argparse
import functools
import io
import statistics
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import harness
import numpy as np
import PIL
import torch
import torch.nn.functional as F
from PIL import Image
from squeezenet import SqueezeNet

import fdr
from fdr.encoders.resize import RESIZES
from fdr.images.resize import CROPS
from fdr.runtime import write_atomically

SIDE, PILLOW_SIDE, INPUT, BATCH = 256, 299, 224, 16
STRENGTHS = {"near": (0.75, 1.0), "far": (0.45, 4.0)}
"""Kind of samples -> (share of the resolution kept, standard deviation of the noise in steps of 1/255)."""
KINDS = tuple(STRENGTHS)
REAL = "real"
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
SUBSET = 0.75
"""Share of the images in each of the seeded subsets over which a change is measured."""


@dataclass(frozen=True)
class Recipe:
    """Everything that happens to a photo before its features; the defaults are the base that is varied."""

    crop: str = "adm"
    pillow: str = ""
    """"" resizes as fdr does, the same in every Pillow; a version: one call of `Image.resize` in that Pillow."""
    jpeg: int = 0
    is_quantized: bool = True
    resize: str = "bicubic-antialias"
    dtype: str = "float32"
    input_size: int = INPUT


@dataclass(frozen=True)
class Footgun:
    """One row of the table."""

    field: str
    before: str
    after: str
    sides: str
    """"both" or "samples"."""
    base: Recipe
    changed: Recipe
    note: str


def footguns(pillows: Sequence[str]) -> list[Footgun]:
    """The rows on photos; that of Pillow where two versions are at hand."""
    base = Recipe()
    resizes = {
        "tf1-bilinear": "TensorFlow 1's, as in ADM's evaluator and torch-fidelity",
        "torch-bilinear": "without antialiasing, as pytorch-fid",
        "pil-bicubic-float": "Pillow on floats, as clean-fid",
    }
    crops = {"center": "short side in one bicubic step", "squash": "the aspect ratio is lost"}
    changes = [("rs", base.resize, name, replace(base, resize=name), note) for name, note in resizes.items()]
    changes += [("crop", "adm", name, replace(base, crop=name), note) for name, note in crops.items()]
    changes += [("dt", "float32", "bf16", replace(base, dtype="bf16"), "autocast of the network")]
    rows = [
        Footgun(field, before, after, sides, base, changed, note)
        for field, before, after, changed, note in changes
        for sides in ("both", "samples")
    ]
    for quality in (100, 95, 90, 75):
        changed, note = replace(base, jpeg=quality), "samples saved as JPEG, 4:2:0"
        rows.append(Footgun("jpeg", "png", f"jpeg-{quality}", "samples", base, changed, note))
    rows.append(
        Footgun("q", "u8", "none", "samples", base, replace(base, is_quantized=False), "floats that were never rounded")
    )
    if len(pillows) == 2:
        old, new = (Recipe(pillow=version) for version in pillows)
        note = "one call of Image.resize; fdr's own resize gives the same pixels in both"
        rows.append(Footgun("pillow", *pillows, "samples", old, new, note))
    return rows


def pixels_of(path: Path, crop: str) -> np.ndarray:
    function = CROPS["none" if crop == "squash" else crop]
    return np.array(function(Image.open(path).convert("RGB"), SIDE))


ONE_CALL = """
import sys; sys.path.insert(0, sys.argv[1]); import numpy, PIL; from PIL import Image
names, out, side = open(sys.argv[2]).read().splitlines(), sys.argv[3], int(sys.argv[4])
rows = numpy.lib.format.open_memmap(out, "w+", numpy.uint8, (len(names), side, side, 3))
for row, name in enumerate(names):
    rows[row] = numpy.asarray(Image.open(name).convert("RGB").resize((side, side), Image.Resampling.BICUBIC))
print(PIL.__version__)
"""


def one_call_pixels(paths: Sequence[Path], pillow: Path, folder: Path) -> tuple[str, np.ndarray]:
    """The version of the Pillow in `pillow`, and its pixels [N, 299, 299, 3] of one resize of the whole photo."""
    names, out = folder / "names.txt", folder / f"{pillow.parent.name}-{pillow.name}.npy"
    names.write_text("\n".join(map(str, paths)))
    arguments = [sys.executable, "-c", ONE_CALL, str(pillow), str(names), str(out), str(PILLOW_SIDE)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    return done.stdout.strip(), np.load(out, mmap_mode="r")


def imperfect(image: torch.Tensor, kind: str, seed: int) -> torch.Tensor:
    """float [3, H, W] in [0, 1] with the finest details lost and a little noise, unrounded."""
    share, sigma = STRENGTHS[kind]
    size = tuple(image.shape[1:])
    small = F.interpolate(image[None], scale_factor=share, mode="bicubic", antialias=True)
    large = F.interpolate(small, size, mode="bicubic", antialias=True)[0]
    noise = torch.randn(large.shape, generator=torch.Generator().manual_seed(seed))
    return (large + noise * (sigma / 255)).clamp(0, 1)


def as_saved(image: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """The image after its way through a file."""
    if not recipe.is_quantized:
        return image
    rounded = (image * 255).round().byte()
    if recipe.jpeg:
        buffer = io.BytesIO()
        Image.fromarray(rounded.permute(1, 2, 0).numpy()).save(buffer, "JPEG", quality=recipe.jpeg)
        rounded = torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1)
    return rounded.float() / 255


def encode(network: SqueezeNet, images: torch.Tensor, recipe: Recipe) -> np.ndarray:
    """float [B, 3, H, W] in [0, 1] -> float32 [B, 512]."""
    scale = 255 if recipe.resize == "pil-bicubic-float" else 1
    resized = RESIZES[recipe.resize](images * scale, recipe.input_size) / scale
    normalised = (resized - MEAN[:, None, None]) / STD[:, None, None]
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=recipe.dtype == "bf16"):
        return network(normalised).numpy()


Features = Mapping[tuple[Recipe, str], np.ndarray]
Reader = Callable[[int, Recipe], np.ndarray]
"""(row, recipe) -> uint8 [H, W, 3]"""


def all_features(network: SqueezeNet, count: int, read: Reader, wanted: Sequence[tuple[Recipe, str]]) -> Features:
    """float32 [N, 512] of every recipe and kind; each image is decoded once per crop, and degraded once per kind."""
    parts: dict[tuple[Recipe, str], list[np.ndarray]] = {key: [] for key in wanted}

    @functools.lru_cache(maxsize=16 * BATCH)
    def pixels(row: int, crop: str, pillow: str, kind: str) -> torch.Tensor:
        image = torch.from_numpy(np.array(read(row, Recipe(crop, pillow)))).permute(2, 0, 1).float() / 255
        return image if kind == REAL else imperfect(image, kind, row)

    for start in range(0, count, BATCH):
        rows = range(start, min(start + BATCH, count))
        for recipe, kind in wanted:
            images = [as_saved(pixels(row, recipe.crop, recipe.pillow, kind), recipe) for row in rows]
            parts[recipe, kind].append(encode(network, torch.stack(images), recipe))
        if rows.stop % (10 * BATCH) == 0:
            print(f"{rows.stop} of {count} images", file=sys.stderr)
    return {key: np.concatenate(arrays) for key, arrays in parts.items()}


def subsets(count: int, num_subsets: int) -> Iterator[np.ndarray]:
    for seed in range(num_subsets):
        yield np.random.default_rng(seed).permutation(count)[: round(SUBSET * count)]


def distance(samples: np.ndarray, reference: np.ndarray) -> float:
    return fdr.frechet_distance(fdr.Moments.from_features(samples), fdr.Moments.from_features(reference))


@dataclass(frozen=True)
class Row:
    """A measured row: (median, lowest, highest) relative change for each kind of samples, and over all."""

    field: str
    before: str
    after: str
    sides: str
    note: str
    changes: Mapping[str, tuple[float, float, float]]


def measured(footgun: Footgun, features: Features, num_subsets: int) -> Row:
    """FD after / FD before - 1 over the subsets."""
    real = features[footgun.base, REAL]
    reference = features[footgun.changed, REAL] if footgun.sides == "both" else real
    found = {
        kind: [
            distance(features[footgun.changed, kind][rows], reference[rows])
            / distance(features[footgun.base, kind][rows], real[rows])
            - 1
            for rows in subsets(len(real), num_subsets)
        ]
        for kind in KINDS
    }
    return Row(footgun.field, footgun.before, footgun.after, footgun.sides, footgun.note, _summaries(found))


def measured_counts(features: Features, reference: np.ndarray, num_subsets: int) -> Iterator[Row]:
    """The same samples, fewer of them; `reference` shares no image with them."""
    for parts in (2, 4):
        found: dict[str, list[float]] = {}
        for (_, kind), samples in features.items():
            for rows in subsets(len(samples), num_subsets):
                fewer = rows[: len(rows) // parts]
                found.setdefault(kind, []).append(
                    distance(samples[fewer], reference) / distance(samples[rows], reference) - 1
                )
        total = round(SUBSET * len(next(iter(features.values()))))
        note = f"small images, 512-d features: {total / 512:.0f} and {total // parts / 512:.1f} samples per dimension"
        yield Row("n", str(total), str(total // parts), "samples", note, _summaries(found))


def _summaries(found: Mapping[str, list[float]]) -> dict[str, tuple[float, float, float]]:
    pooled = {**found, "": [value for values in found.values() for value in values]}
    return {kind: (statistics.median(values), min(values), max(values)) for kind, values in pooled.items()}


def toml_text(rows: Sequence[Row], encoder: str, measured_on: Mapping[str, str]) -> str:
    """The data file: relative changes of FD as fractions, over all samples and for each kind."""
    lines = [
        "# Written by benchmarks/footguns.py; docs/footguns.md explains it. Relative changes of FD: 0.01 is +1 %.",
        "# `low` and `high` are over the subsets and both kinds of samples; near, far = [median, low, high].\n",
    ]
    for row in rows:
        texts = {"field": row.field, "from": row.before, "to": row.after, "sides": row.sides, "encoder": encoder}
        lines += ["[[effect]]", *(f'{key} = "{value}"' for key, value in texts.items())]
        names = ("median", "low", "high")
        lines += [f"{name} = {value:.5f}" for name, value in zip(names, row.changes[""], strict=True)]
        lines += [f"{kind} = [{', '.join(f'{value:.5f}' for value in row.changes[kind])}]" for kind in KINDS]
        lines += [
            f'measured_on = "{measured_on["arrays" if row.field == "n" else "photos"]}"',
            f'note = "{row.note}"',
            "",
        ]
    return "\n".join(lines)


def markdown(effects: Sequence[Mapping[str, Any]]) -> str:
    """The table of docs/footguns.md, from the entries of the data file."""
    rows = (
        [
            f"`{row['field']}`",
            row["from"],
            row["to"],
            row["sides"],
            *(percent(row[kind]) for kind in KINDS),
            row["note"],
        ]
        for row in effects
    )
    header = ("field", "from", "to", "changed on", "near samples", "far samples", "note")
    return harness.table(header, rows, num_text=len(header))


def percent(change: Sequence[float]) -> str:
    """ "+1.2 % (+0.9 to +1.5)": two digits, but no more than hundredths of a percent."""
    median, low, high = (f"{round(100 * value, _decimals(value)) + 0.0:+.{_decimals(value)}f}" for value in change)
    return f"{median} % ({low} to {high})"


def _decimals(value: float) -> int:
    return 0 if abs(value) >= 0.1 else 1 if abs(value) >= 0.01 else 2


def parser() -> argparse.ArgumentParser:
    found = harness.parser(__doc__)
    found.add_argument("--photos", type=Path, required=True, help="folder of photos, searched in depth")
    found.add_argument("--weights", type=Path, required=True, help="squeezenet1_1.safetensors")
    found.add_argument("--photos-name", default="photos", help="what to call them beside the figures")
    found.add_argument(
        "--arrays", type=Path, nargs=2, metavar=("SAMPLES", "REFERENCE"), help="npz files for the rows on N"
    )
    found.add_argument("--arrays-name", default="small images")
    found.add_argument("--count", type=int, default=800, help="photos taken, a seeded subset")
    found.add_argument("--subsets", type=int, default=8)
    found.add_argument("--other-pillow", type=Path, help="folder with another Pillow, for the row on its versions")
    found.add_argument("--toml", type=Path, help="file to write")
    return found


def photo_rows(options: argparse.Namespace, network: SqueezeNet, folder: Path) -> Iterator[Row]:
    files = sorted(path for path in options.photos.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    chosen = np.sort(np.random.default_rng(0).permutation(len(files))[: options.count])
    paths = [files[row].resolve() for row in chosen]
    installed = Path(PIL.__file__).parent.parent
    pillows = [options.other_pillow, installed] if options.other_pillow else []
    one_call = dict(one_call_pixels(paths, pillow, folder) for pillow in pillows)

    def read(row: int, recipe: Recipe) -> np.ndarray:
        return one_call[recipe.pillow][row] if recipe.pillow else pixels_of(paths[row], recipe.crop)

    rows = footguns(list(one_call))
    keys = [(recipe, kind) for gun in rows for recipe in (gun.base, gun.changed) for kind in KINDS]
    keys += [(recipe, REAL) for gun in rows for recipe in (gun.base, *([gun.changed] if gun.sides == "both" else []))]
    features = all_features(network, len(paths), read, list(dict.fromkeys(keys)))
    for kind in KINDS:
        fd = distance(features[Recipe(), kind], features[Recipe(), REAL])
        print(f"FD of {kind} samples: {fd:.4g}", file=sys.stderr)
    if len(one_call) == 2:
        old, new = one_call.values()
        changed = statistics.mean(float((a != b).mean()) for a, b in zip(old, new, strict=True))
        print(f"values that differ between the Pillows: {changed:.2%}", file=sys.stderr)
    yield from (measured(gun, features, options.subsets) for gun in rows)


def array_rows(options: argparse.Namespace, network: SqueezeNet) -> Iterator[Row]:
    recipe = Recipe(input_size=64)
    samples, reference = (np.load(path, allow_pickle=False)["arr_0"] for path in options.arrays)
    found = all_features(network, len(samples), lambda row, _: samples[row], [(recipe, kind) for kind in KINDS])
    real = all_features(network, len(reference), lambda row, _: reference[row], [(recipe, REAL)])
    yield from measured_counts(found, real[recipe, REAL], options.subsets)


def main() -> None:
    options = parser().parse_args()
    network = SqueezeNet(options.weights)
    with tempfile.TemporaryDirectory() as folder:
        rows = list(photo_rows(options, network, Path(folder)))
    rows += array_rows(options, network) if options.arrays else []
    over = f"{options.subsets} subsets of {SUBSET:.0%}"
    measured_on = {
        "photos": f"{options.count} {options.photos_name}, {SIDE} px, {over}",
        "arrays": f"{options.arrays_name}, {over}",
    }
    text = toml_text(rows, options.weights.stem, measured_on)
    print(markdown(tomllib.loads(text)["effect"]))
    harness.write_json(options.json, rows=tomllib.loads(text)["effect"])
    if options.toml:
        write_atomically(options.toml, text.encode())


if __name__ == "__main__":
    main()
