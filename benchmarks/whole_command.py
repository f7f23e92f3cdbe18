"""The whole command, from images on disk to FD: `fdr eval` beside pytorch-fid, torch-fidelity and clean-fid.

    pip install pytorch-fid torch-fidelity clean-fid          # pytorch-fid and clean-fid need scipy < 1.18
    python benchmarks/whole_command.py --photos FOLDER        # 1,000 images, an hour on two cores
    python benchmarks/whole_command.py --quick                # 100 drawn images, minutes
    python benchmarks/whole_command.py --json out.json --only pytorch-fid

All tools see the same JPEGs of 256 x 256 (mixed sizes would exclude some peers), one seeded random state dict of
FID-Inception in the official layout, the same batch size, threads and decode workers. Every tool measures the
reference images itself, once and untimed; a timed command then does images -> features -> FD. Each is a process of its
own; the commands take turns, so that a busy machine hits all of them. CPU seconds are user + system over the process
and its children; "largest" memory is the peak resident set of the largest process, "tree" the sum over its processes
of proportional sets, sampled. 1,000 samples of 2048-d features make the product of covariances singular, on which the
peers' matrix roots are slow and lose digits; so the ratios are also given without the time that a peer spent in its
root, while ours keep the whole command, and FD is compared with the peer's, and with the exact distance of the peer's
own features.

No peer reads an npz of images: fdr's npz rows stand beside the peer's folder. clean-fid's own TorchScript network
cannot be had without its server, so its loader, resize and distance run around pytorch-fid's network on (x - 128) /
128. torch-fidelity's command has no option for decode workers; it takes four processes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import harness

WEIGHTS = "pt_inception-2015-12-05-6726825d.pth"
MODES = {
    "inception:pytorch-fid": "pytorch-fid",
    "inception": "torch-fidelity",
    "inception:clean": "clean-fid",
}
"""Encoder of fdr -> the peer whose resize it has."""
TOGETHER = ("inception", "inception:pytorch-fid", "random")
PEERS = ("pytorch-fid", "torch-fidelity", "clean-fid")
ROOT_MARK = "seconds in the matrix root:"


@dataclass(frozen=True)
class World:
    """Where everything lies and what all commands share."""

    root: Path
    batch_size: int
    threads: int
    workers: int

    @property
    def torch_home(self) -> Path:
        return self.root / "torch"

    @property
    def weights(self) -> Path:
        return self.torch_home / "hub" / "checkpoints" / WEIGHTS

    @property
    def reference(self) -> Path:
        return self.root / "reference"

    def samples(self, kind: str) -> Path:
        """As "folder" or "npz"."""
        return self.root / ("samples" if kind == "folder" else "samples.npz")

    def environment(self) -> dict[str, str]:
        """For every command: one number of threads, no network, and a fresh cache of fdr's."""
        cache = self.root / "fdr-cache"
        shutil.rmtree(cache, ignore_errors=True)
        own = {"TORCH_HOME": str(self.torch_home), "FDR_CACHE": str(cache), "FDR_OFFLINE": "1"}
        return harness.environment_with(self.threads) | own

    def features(self, peer: str, images: Path) -> Path:
        """Where the features are kept that a peer computed of a folder."""
        return self.root / f"{peer}-{len(os.listdir(images))}.npy"


@dataclass(frozen=True)
class Way:
    """One command of the comparison."""

    tool: str
    encoders: str
    images: str
    note: str
    command: list[str]
    value: Callable[[str], float]
    """Its stdout -> FD."""

    @property
    def name(self) -> str:
        return " ".join(filter(None, (self.tool, self.encoders, self.images, self.note)))


@dataclass(frozen=True)
class Run:
    """What one process took."""

    wall_s: float
    cpu_s: float
    root_wall_s: float
    root_cpu_s: float
    """Of it in a peer's matrix root."""
    largest_mib: float
    tree_mib: float
    fd: float


# ------------------------------------------------------------------------------------------------- the commands


def ways(world: World) -> list[Way]:
    """The peer's and ours in each mode, one after the other."""
    found = []
    for encoder, peer in MODES.items():
        command, value = peer_command(world, peer)
        found.append(Way(peer, encoder, "folder", "", [*command, str(world.samples("folder"))], value))
        found += [fdr_way(world, (encoder,), kind) for kind in ("folder", "npz")]
        if peer == "pytorch-fid":
            found.append(fdr_way(world, (encoder,), "folder", "features kept"))
            found.append(fdr_way(world, (encoder,), "folder", "--exact-order"))
    found.append(fdr_way(world, ("random",), "folder"))
    found.append(fdr_way(world, TOGETHER, "folder"))
    return found


def fdr_way(world: World, encoders: Sequence[str], kind: str, note: str = "") -> Way:
    extra = [] if note == "features kept" else ["--no-cache"]
    extra += [note] if note.startswith("--") else []
    reference = world.root / ("fdr-exact-order" if note == "--exact-order" else "fdr")
    extra += ["--ref", str(reference), "--json", "-"]
    command = fdr_command(world, "eval", world.samples(kind), encoders, *extra)
    return Way("fdr", ",".join(encoders), kind, note, command, lambda out: json.loads(out)["results"][0]["value"])


def fdr_command(world: World, command: str, images: Path, encoders: Sequence[str], *extra: str) -> list[str]:
    shared = ["--reps", ",".join(encoders), "--batch-size", str(world.batch_size), "--device", "cpu", "--quiet"]
    shared += ["--num-workers", str(world.workers)]
    return [sys.executable, "-m", "fdr", command, str(images), *shared, *extra]


def peer_command(world: World, peer: str) -> tuple[list[str], Callable[[str], float]]:
    """The command line but for the images, and what reads FD from its output."""
    batch, workers = str(world.batch_size), str(world.workers)
    command = [sys.executable, __file__, "--peer", peer, str(world.root)]
    if peer == "torch-fidelity":
        command += ["--fid", "--cpu", "--json", "--silent", "--batch-size", batch]
        command += [
            "--feature-extractor-weights-path",
            str(world.weights),
            "--cache-root",
            str(world.root / "fidelity"),
        ]
        command += ["--input2", str(world.reference), "--input2-cache-name", "reference", "--input1"]
        return command, lambda out: json.loads(out)["frechet_inception_distance"]
    command += ["--batch-size", batch, "--num-workers", workers]
    if peer == "pytorch-fid":
        command += ["--device", "cpu"]
    return [*command, str(world.root / f"{peer}.npz")], lambda out: float(out.split()[-1])


def run_peer(peer: str, root: str, arguments: Sequence[str]) -> None:
    """In a process of its own: the peer's command, with a watch on its matrix root; its features are kept."""
    import numpy as np
    import scipy.linalg

    covariance = np.cov

    def kept(features: Any, **keywords: Any) -> Any:
        np.save(Path(root) / f"{peer}-{len(features)}.npy", features)
        return covariance(features, **keywords)

    np.cov = kept
    scipy.linalg.sqrtm = watched(scipy.linalg.sqrtm)
    np.linalg.eigvals = watched(np.linalg.eigvals)
    sys.argv = [peer, *arguments]
    if peer == "pytorch-fid":
        from pytorch_fid.fid_score import main
    elif peer == "torch-fidelity":
        from torch_fidelity.fidelity import main
    else:
        main = clean_fid
    main()


def watched(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, which writes its wall and CPU seconds to stderr."""

    def call(*args: Any, **keywords: Any) -> Any:
        wall, cpu = time.perf_counter(), time.process_time()
        result = function(*args, **keywords)
        print(f"\n{ROOT_MARK} {time.perf_counter() - wall} {time.process_time() - cpu}", file=sys.stderr)
        return result

    return call


def clean_fid() -> None:
    """clean-fid has no command of its own. Without a statistics file this one writes it."""
    import numpy as np
    import torch
    from cleanfid.fid import frechet_distance, get_folder_features
    from pytorch_fid.inception import InceptionV3

    parser = argparse.ArgumentParser()
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--num-workers", type=int)
    parser.add_argument("statistics", type=Path)
    parser.add_argument("images")
    arguments = parser.parse_args()
    network = InceptionV3([3], resize_input=False, normalize_input=False).eval()
    features = get_folder_features(
        arguments.images,
        lambda x: network((x - 128) / 128)[0].flatten(1),
        num_workers=arguments.num_workers,
        batch_size=arguments.batch_size,
        device=torch.device("cpu"),
        mode="clean",
        verbose=False,
    )
    mu, sigma = np.mean(features, axis=0), np.cov(features, rowvar=False)
    if not arguments.statistics.exists():
        np.savez(arguments.statistics, mu=mu, sigma=sigma)
        return
    with np.load(arguments.statistics) as file:
        print(frechet_distance(mu, sigma, file["mu"], file["sigma"]))


def exact_distances(world: World) -> dict[str, float]:
    """Peer -> FD of the features that it computed, by thin factors in float64."""
    found = {}
    for peer in MODES.values():
        paths = [world.features(peer, folder) for folder in (world.samples("folder"), world.reference)]
        if all(path.exists() for path in paths):
            found[peer] = harness.in_child(
                __file__, "exact_distance", environment=world.environment(), paths=list(map(str, paths))
            )
    return found


def exact_distance(paths: Sequence[str]) -> float:
    """In a process of its own: FD of two files of features."""
    import numpy as np

    import fdr

    return float(fdr.frechet_distance(*(np.load(path) for path in paths)))


# -------------------------------------------------------------------------------------------------- the material


def prepare(root: str | Path, count: int, photos: str | None) -> None:
    """In a process of its own: samples, reference images and the state dict."""
    import numpy as np
    import torch
    from PIL import Image

    root = Path(root)
    folders = {"samples": count, "reference": max(30, 3 * count // 10)}
    total = sum(folders.values())
    pictures = drawn(total) if photos is None else cropped(Path(photos), total)
    for name, many in folders.items():
        (root / name).mkdir()
        for index in range(many):
            Image.fromarray(next(pictures)).save(root / name / f"{index:05}.jpg", quality=95)
    pixels = np.stack([np.asarray(Image.open(path)) for path in sorted((root / "samples").iterdir())])
    np.savez(root / "samples.npz", arr_0=pixels)
    weights = root / "torch" / "hub" / "checkpoints" / WEIGHTS
    weights.parent.mkdir(parents=True)
    torch.save(random_state(pixels[:: max(1, count // 8)][:8]), weights)


def cropped(folder: Path, count: int) -> Iterator[Any]:
    """ADM crops of a seeded choice of the folder's images."""
    from fdr.images import ImageOptions, open_images

    source = open_images(folder, ImageOptions(count=count, crop="adm", size=256))
    for batch in source.batches(32):
        yield from (image.permute(1, 2, 0).numpy() for image in batch.images)


def drawn(count: int) -> Iterator[Any]:
    """Drawings under noise of many scales, which compress about as photographs do."""
    import numpy as np
    from PIL import Image

    from fdr.images import procedural

    for index in range(count):
        random = np.random.default_rng(index)
        picture = procedural.draw(0, index, 256).astype(np.float32)
        for level in range(2, 8):
            noise = Image.fromarray(random.integers(0, 256, (2**level, 2**level, 3), dtype=np.uint8))
            picture += (np.asarray(noise.resize((256, 256), Image.Resampling.BICUBIC), np.float32) - 128) * 0.5 / level
        yield np.clip(picture, 0, 255).astype(np.uint8)


def random_state(images: Any) -> dict[str, Any]:
    """He's rule for the kernels; batch norms take their statistics from the images, so that no layer dies."""
    import torch
    from torch import nn

    from fdr.encoders.inception_network import InceptionNetwork
    from fdr.encoders.resize import torch_bilinear

    random = torch.Generator().manual_seed(0)
    network = InceptionNetwork().train().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.normal_(0, (2 / module.weight[0].numel()) ** 0.5, generator=random)
        elif isinstance(module, nn.BatchNorm2d):
            module.weight.uniform_(0.7, 1.3, generator=random)
            module.bias.normal_(0, 0.3, generator=random)
            module.momentum = 1.0
    batch = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    network((torch_bilinear(batch, 299) - 128) / 128, ("pool",))
    return {name: value for name, value in network.state_dict().items() if not name.endswith("num_batches_tracked")}


def measure_references(world: World) -> None:
    """Each tool's own statistics of the reference images; untimed."""
    for folder, encoders, extra in (
        ("fdr", (*MODES, "random"), []),
        ("fdr-exact-order", ("inception:pytorch-fid",), ["--exact-order"]),
    ):
        out = ["-o", str(world.root / folder), "--no-cache", *extra]
        harness.run(fdr_command(world, "stats", world.reference, encoders, *out), world.environment())
    two = world.root / "two"
    two.mkdir()
    for path in sorted(world.reference.iterdir())[:2]:
        shutil.copy(path, two)
    images = {"pytorch-fid": world.reference, "torch-fidelity": two, "clean-fid": world.reference}
    for peer, folder in images.items():
        command = [*peer_command(world, peer)[0], str(folder)]
        if peer == "pytorch-fid":
            command = [*command[:-2], "--save-stats", command[-1], command[-2]]
        try:
            harness.run(command, world.environment())
        except RuntimeError as error:
            print(f"{peer} does not run here: {error}", file=sys.stderr)


# ---------------------------------------------------------------------------------------------------- measuring


def timed(way: Way, world: World) -> Run:
    """One run of a command."""
    done = harness.run(way.command, world.environment(), watch=True)
    roots = [line.split()[-2:] for line in done.stderr.splitlines() if line.startswith(ROOT_MARK)]
    root_wall, root_cpu = (sum(float(root[k]) for root in roots) for k in (0, 1))
    fd = way.value(done.stdout)
    return Run(done.wall_s, done.cpu_s, root_wall, root_cpu, done.largest_mib, done.tree_mib, fd)


def measure(chosen: Sequence[Way], world: World, repeats: int) -> dict[str, dict[str, Any]]:
    """All commands in turn, `repeats` times."""
    runs: dict[str, list[Run]] = {way.name: [] for way in chosen}
    errors: dict[str, str] = {}
    for turn in range(repeats):
        for way in (way for way in chosen if way.name not in errors):
            try:
                run = timed(way, world)
            except RuntimeError as error:
                errors[way.name] = str(error)
                continue
            runs[way.name].append(run)
            print(f"{turn + 1}/{repeats} {way.name}: {run}", file=sys.stderr, flush=True)
    return {way.name: summary(way, runs[way.name], errors.get(way.name)) for way in chosen}


def summary(way: Way, runs: Sequence[Run], error: str | None) -> dict[str, Any]:
    """Medians over the runs, and the runs."""
    facts = {"tool": way.tool, "encoders": way.encoders, "images": way.images, "note": way.note}
    if error is not None:
        return {**facts, "error": error}
    rows = [asdict(run) for run in runs]
    return {**facts, **{name: statistics.median(row[name] for row in rows) for name in rows[0]}, "runs": rows}


# ---------------------------------------------------------------------------------------------------- the tables


def tables(results: dict[str, dict[str, Any]], exact: dict[str, float]) -> str:
    parts = []
    for encoder, peer in MODES.items():
        rows = [row for row in results.values() if row["encoders"] == encoder]
        if rows:
            parts.append(mode_table(encoder, peer, rows, exact.get(peer)))
    return "\n\n".join(parts + together_table(results))


def mode_table(encoder: str, peer: str, rows: Sequence[dict[str, Any]], exact: float | None) -> str:
    base = next((row for row in rows if row["tool"] == peer and "error" not in row), None)
    header = ("command", "wall s", "CPU s", "in the root: wall, CPU s", "ratio: wall, CPU")
    header = (*header, "ratio without the root: wall, CPU", "memory, MiB: largest, tree", "FD")
    header = (*header, "relative to the peer's FD", "to the exact FD of the peer's features")
    lines = []
    for row in rows:
        label = ", ".join(filter(None, (row["tool"], row["images"], row["note"])))
        if "error" in row:
            lines.append([label, row["error"], *[""] * 8])
            continue
        root = f"{row['root_wall_s']:.1f}, {row['root_cpu_s']:.1f}" if row["root_wall_s"] else ""
        ratios = [""] * 3 if base is None or row is base else compared(row, base)
        cells = [label, f"{row['wall_s']:.1f}", f"{row['cpu_s']:.1f}", root, *ratios[:2]]
        to_exact = "" if exact is None else f"{row['fd'] / exact - 1:+.1e}"
        cells += [f"{row['largest_mib']:.0f}, {row['tree_mib']:.0f}", f"{row['fd']:.6f}", ratios[2], to_exact]
        lines.append(cells)
    return f"### `{encoder}` and {peer}\n\n" + harness.table(header, lines)


def compared(row: dict[str, Any], base: dict[str, Any]) -> list[str]:
    """Ratios of the whole, ratios without the peer's root, relative difference of FD."""
    whole = [base[name] / row[name] for name in ("wall_s", "cpu_s")]
    rest = [(base[name] - base[f"root_{name}"]) / row[name] for name in ("wall_s", "cpu_s")]
    return [f"**{a:.2f}x**, **{b:.2f}x**" for a, b in (whole, rest)] + [f"{row['fd'] / base['fd'] - 1:+.1e}"]


def together_table(results: dict[str, dict[str, Any]]) -> list[str]:
    """One run of several encoders beside the sum of single runs."""
    found = [results.get(f"fdr {encoders} folder", {}) for encoders in (*TOGETHER, ",".join(TOGETHER))]
    if any("wall_s" not in row for row in found):
        return []
    *single, together = found
    rows = dict(zip(TOGETHER, single, strict=True))
    rows["the three, one after the other"] = {
        **{name: sum(row[name] for row in single) for name in ("wall_s", "cpu_s")},
        **{name: max(row[name] for row in single) for name in ("largest_mib", "tree_mib")},
    }
    rows["the three in one run"] = together
    lines = [
        [name, f"{row['wall_s']:.1f}", f"{row['cpu_s']:.1f}", f"{row['largest_mib']:.0f}, {row['tree_mib']:.0f}"]
        for name, row in rows.items()
    ]
    header = ("encoders", "wall s", "CPU s", "memory, MiB: largest, tree")
    return ["### Three encoders in one run\n\n" + harness.table(header, lines)]


def main() -> None:
    """Parse, prepare, measure, print."""
    if sys.argv[1:2] == ["--peer"]:
        run_peer(sys.argv[2], sys.argv[3], sys.argv[4:])
        return
    parser = harness.parser(__doc__, repeats=3)
    parser.add_argument("--photos", type=Path, metavar="FOLDER", help="photographs to crop; default: drawings")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--quick", action="store_true", help="100 images, one repeat")
    parser.add_argument("--batch-size", type=int, default=50, help="of every tool")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2, help="that decode; torch-fidelity takes 4")
    parser.add_argument("--only", action="append", metavar="TEXT", help="only commands whose name has it; repeatable")
    parser.add_argument("--folder", type=Path, help="keep the material here, and use what is there; default: temporary")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.count, arguments.repeats = 100, 1
    with tempfile.TemporaryDirectory() as temporary:
        compare(arguments, arguments.folder or Path(temporary))


def compare(arguments: argparse.Namespace, root: Path) -> None:
    """Make what is missing in `root`, then time everything."""
    world = World(root, arguments.batch_size, arguments.threads, arguments.workers)
    if not world.weights.exists():
        root.mkdir(parents=True, exist_ok=True)
        photos = None if arguments.photos is None else str(arguments.photos)
        material = {"root": str(root), "count": arguments.count, "photos": photos}
        harness.in_child(__file__, "prepare", environment=world.environment(), **material)
    if not (world.root / "fdr").exists():
        measure_references(world)
    chosen = [way for way in ways(world) if not arguments.only or any(text in way.name for text in arguments.only)]
    results = measure(chosen, world, arguments.repeats)
    count = len(os.listdir(world.samples("folder")))
    print(f"{count} images, batch size {world.batch_size}, medians of {arguments.repeats} runs;", end=" ")
    print(f"{harness.machine_line(*PEERS, threads=world.threads)}.\n")
    print(tables(results, exact := exact_distances(world)))
    harness.write_json(arguments.json, count=count, results=results, exact=exact)


if __name__ == "__main__":
    main()
