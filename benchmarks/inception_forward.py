"""FID-Inception on the CPU: time and error per image of fdr beside torch-fidelity and pytorch-fid, in one run.

    python benchmarks/inception_forward.py                           # one and two threads, a few minutes
    python benchmarks/inception_forward.py --threads 1 --repeats 3 --json out.json

Every network holds the same random weights (batch-norm statistics from one pass over drawn images) and takes the same
uint8 images of 256 x 256 to 2048 features, its own resize included. The networks take turns, so that a busy machine
hits all of them; shown are medians over the turns. The error is against the same network in float64:
|f - f64| / |f64| over all features.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import harness
import torch
from torch import Tensor

from fdr.encoders import EncoderOptions
from fdr.encoders.inception import load
from fdr.encoders.inception_network import InceptionNetwork
from fdr.encoders.resize import tf1_bilinear, torch_bilinear
from fdr.errors import FdrWarning
from fdr.images import procedural
from fdr.runtime import devices as runtime

sys.path.insert(0, str(harness.TEST_HELPERS))
from inception_state import make_inception_state, save_inception_state

Network = Callable[[Tensor], Tensor]


def peers(weights: Path) -> dict[str, Network]:
    """uint8 images -> features, as the installed peers compute them."""
    networks: dict[str, Network] = {}
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        fidelity = FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"], str(weights))
        networks["torch-fidelity"] = lambda images: fidelity(images)[0]
    except ImportError as error:
        print(f"torch-fidelity is left out: {error}", file=sys.stderr)
    try:
        from pytorch_fid import inception

        inception.load_state_dict_from_url = lambda *_, **__: torch.load(weights)
        pytorch_fid = inception.InceptionV3([3]).eval()
        networks["pytorch-fid"] = lambda images: pytorch_fid(images / 255)[0].flatten(1)
    except ImportError as error:
        print(f"pytorch-fid is left out: {error}", file=sys.stderr)
    return networks


def ours(weights: Path) -> dict[str, Network]:
    """The same through fdr."""

    def network(name: str, outputs: tuple[str, ...], **options: object) -> Network:
        encoder = load(name, EncoderOptions(weights=weights, device="cpu", **options))  # type: ignore[arg-type]
        return lambda images: encoder(images / 255, outputs)["pool"]

    both = ("pool", "logits")
    networks = {
        "fdr inception": network("inception", both),
        "fdr inception, exact order": network("inception", both, exact_order=True),
        "fdr inception:pytorch-fid": network("inception:pytorch-fid", ("pool",)),
        "fdr inception:clean": network("inception:clean", ("pool",)),
    }
    if runtime.has_fast_bf16(torch.device("cpu")):
        networks["fdr inception, bf16"] = network("inception", both, dtype="bf16")
    return networks


def truths(images: Tensor) -> dict[str, Tensor]:
    """float64 features for either preprocessing, resize included."""
    network = InceptionNetwork().eval()
    network.load_state_dict(make_inception_state(), strict=False)
    network.double()
    pixels = images.double()
    # the global average is cast to float32 by contract; 6e-8 relative, far below what is measured
    return {
        "pytorch-fid": network(2 * torch_bilinear(pixels / 255, 299) - 1, ["pool"])["pool"].double(),
        "torch-fidelity": network((tf1_bilinear(pixels, 299) - 128) / 128, ["pool"])["pool"].double(),
    }


def measure(networks: dict[str, Network], images: Tensor, rounds: int) -> dict[str, float]:
    """Median milliseconds per image."""
    turns = harness.take_turns({name: partial(network, images) for name, network in networks.items()}, rounds)
    return {name: 1000 * turn.wall_s / len(images) for name, turn in turns.items()}


def error(name: str, features: Tensor, truth: dict[str, Tensor]) -> float | None:
    if name.endswith(":clean"):
        return None  # its Pillow resize has no float64 form
    expected = truth["pytorch-fid" if name.endswith("pytorch-fid") else "torch-fidelity"]
    return float((features.double() - expected).norm() / expected.norm())


def main() -> None:
    parser = harness.parser(__doc__, repeats=5)
    parser.add_argument("--threads", default="1,2", help="thread counts to try")
    parser.add_argument("--batch-size", type=int, default=16)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", FdrWarning)

    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        weights = save_inception_state(Path(folder))
        networks = peers(weights) | ours(weights)
        drawn = torch.from_numpy(procedural.draw_set(1, arguments.batch_size)).permute(0, 3, 1, 2).float().contiguous()
        images = torch.nn.functional.interpolate(drawn, (256, 256), mode="bicubic").clamp(0, 255).round().byte()
        truth = truths(images)
        times: dict[int, dict[str, float]] = {}
        for threads in map(int, arguments.threads.split(",")):
            torch.set_num_threads(threads)
            times[threads] = measure(networks, images, arguments.repeats)
        errors = {name: error(name, network(images), truth) for name, network in networks.items()}

    first = next(iter(networks))
    print(f"torch {torch.__version__}, batch {arguments.batch_size}; ms per image, and ratio to {first}\n")
    rows = []
    for name in networks:
        cells = [f"{column[name]:.1f} ({column[first] / column[name]:.2f}x)" for column in times.values()]
        rows.append([name, *cells, "-" if errors[name] is None else f"{errors[name]:.1e}"])
    print(harness.table(("network", *(f"{threads} thread(s)" for threads in times), "error"), rows))
    harness.write_json(arguments.json, ms_per_image=times, error=errors)


if __name__ == "__main__":
    main()
