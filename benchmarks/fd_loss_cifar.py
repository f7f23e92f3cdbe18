"""What the paper of FD-loss reports in large, in small: a CIFAR-10 generator, post-trained with every population.

    python benchmarks/fd_loss_cifar.py --data FOLDER --out FOLDER [--steps 400]

The data folder holds `cifar10/train10k.npz` and `cifar10/test5k.npz` (arr_0 uint8 [N, 32, 32, 3], arr_1 labels) and
`weights/squeezenet1_1.safetensors` (torchvision's names). The script trains three small networks and keeps them in the
output folder: a VAE, whose decoder is the one-step generator; a flow-matching U-Net, made for many steps; a classifier.
Both generators are post-trained on encoders, and others watch:

    squeezenet   ImageNet features, 512-d, of images resized to 64 px
    random       fdr's seeded random network, 256-d
    classifier   the classifier's 128 features; no run is trained on it
    pixels       colours of a 4 x 4 thumbnail, 48-d; no run is trained on it

Every run starts from the same weights, takes the same steps of AdamW on the same noise, and is measured on 5,000
samples of noise that no run trains on, against the training images, quantised to uint8. The same command goes on from
the last row that was finished.

Questions: is batch-only worse than a queue? does an EMA reach the queue with less memory? do stale, very long queues
hurt? do several encoders beat one on the encoders that watch? can a network made for many steps be turned into a
one-step one?
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import harness
import numpy as np
import torch
import torch.nn.functional as F
from cifar_networks import LATENTS, Classifier, Decoder, UNet, Vae, fit_classifier, fit_vae
from post_training import (
    EVALUATION_SEED,
    OneStep,
    Recipe,
    Row,
    Rows,
    World,
    compare_encoders,
    compare_populations,
    cosine,
    distances,
    fit_flow,
    moments_of,
    post_train,
    sample,
)
from safetensors.torch import load_file, save_file
from squeezenet import SqueezeNetEncoder
from torch import Tensor, nn
from torchvision.utils import save_image

import fdr
from fdr.runtime import atomic_path

EVALUATED = 5_000
EMA_FILL = 5_000
QUEUES = (2_000, 10_000, 50_000)
SQUEEZENET_SIDE = 64
ENCODERS = (["squeezenet"], ["random"], ["squeezenet", "random"])
VAE_STEPS = 600

Network = TypeVar("Network", bound=nn.Module)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the numbers depend on."""

    steps: int
    batch_size: int
    lr: float
    eps: float
    beta: float
    near_steps: int
    near_lr: float
    flow_steps: int
    seed: int


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("fd_loss_cifar"), help="networks, rows and pictures")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch-size", type=int, default=64, help="below the 512 dimensions, as 1,024 is below 2,048")
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--eps", type=float, default=1e-4, help="in F / (F + eps): below the FD of every encoder")
    parser.add_argument("--beta", type=float, default=0.9, help="of the EMA with which several encoders are compared")
    parser.add_argument("--near-steps", type=int, default=1000, help="of the run that the second start comes from")
    parser.add_argument("--near-lr", type=float, default=1e-4, help="learning rate from there")
    parser.add_argument("--flow-steps", type=int, default=1200, help="training steps of the many-step generator")
    parser.add_argument("--seed", type=int, default=1, help="of the noise that is trained on")
    parser.add_argument("--only", choices=["populations", "near", "encoders", "steps"])
    options = parser.parse_args()
    names = [field.name for field in dataclasses.fields(Settings)]
    settings = Settings(**{name: getattr(options, name) for name in names})
    recipe = Recipe(settings.steps, settings.batch_size, settings.lr, settings.eps, settings.seed)
    if settings.seed == EVALUATION_SEED:
        parser.error(f"--seed {EVALUATION_SEED} is that of the evaluation; choose another")
    options.out.mkdir(parents=True, exist_ok=True)
    rows = Rows(options.out / "rows.json", settings)
    world, flow = load_world(options.data, options.out, settings.flow_steps)
    rows.row("real, held out", lambda: distances(world, read_images(options.data / "cifar10" / "test5k.npz")[0]))
    parts = {
        "populations": lambda: compare_populations(rows, world, "squeezenet", recipe, QUEUES, EMA_FILL),
        "near": lambda: populations_near(rows, world, recipe, settings, options.out),
        "encoders": lambda: compare_encoders(rows, world, ENCODERS, settings.beta, recipe, EMA_FILL),
        "steps": lambda: many_steps_to_one(rows, world, flow, settings.beta, recipe, options.out),
    }
    for name, part in parts.items():
        if options.only in (None, name):
            part()
    harness.write_json(options.json, rows=rows.found)


def read_images(path: Path) -> tuple[Tensor, Tensor]:
    """Images [N, 3, 32, 32] in [0, 1], and labels [N]."""
    with np.load(path, allow_pickle=False) as arrays:
        images, labels = arrays["arr_0"], arrays["arr_1"]
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255, torch.from_numpy(labels)


def load_world(folder: Path, out: Path, flow_steps: int) -> tuple[World, UNet]:
    """One-step generator, encoders and their reference moments; the many-step generator.

    What has to be trained is trained, or read from `out`.
    """
    images, labels = read_images(folder / "cifar10" / "train10k.npz")
    vae = kept(out / "vae.safetensors", Vae, lambda net: fit_vae(net, images, VAE_STEPS))
    flow = kept(
        out / f"flow-{flow_steps}.safetensors",
        UNet,
        lambda net: fit_flow(net, images * 2 - 1, flow_steps, 64, 1e-3, cosine),
    )
    classifier = kept(out / "classifier.safetensors", Classifier, lambda net: fit_classifier(net, images, labels))
    test_images, test_labels = read_images(folder / "cifar10" / "test5k.npz")
    with torch.no_grad():
        hits = (classifier(test_images).argmax(1) == test_labels).float().mean()
    print(f"classifier: {100 * hits:.1f} % of the test images")
    watch = fdr.load_encoder("random")
    encoders: dict[str, Callable[[Tensor], Tensor]] = {
        "squeezenet": SqueezeNetEncoder(folder / "weights" / "squeezenet1_1.safetensors", SQUEEZENET_SIDE),
        "random": lambda images: watch(images)["features"],
        "classifier": classifier.requires_grad_(False).features,
        "pixels": lambda images: F.avg_pool2d(images, 8).flatten(1),
    }
    references = {name: moments_of(encoder, images) for name, encoder in encoders.items()}
    return World(vae.decoder, (LATENTS,), encoders, references, EVALUATED), flow


def kept(path: Path, make: Callable[[], Network], fit: Callable[[Network], None]) -> Network:
    """A network trained by `fit`, or as the file has it."""
    torch.manual_seed(0)
    network = make()
    if path.exists():
        network.load_state_dict(load_file(path))
        return network.eval()
    fit(network)
    with atomic_path(path) as temporary:
        save_file(network.state_dict(), temporary)
    return network.eval()


def populations_near(rows: Rows, world: World, recipe: Recipe, settings: Settings, out: Path) -> None:
    """The populations again, from a generator that a long run with a short EMA has brought near, at a lower rate."""

    def approach(decoder: Decoder) -> None:
        far = dataclasses.replace(recipe, steps=settings.near_steps, seed=1)
        trained = post_train(world, ["squeezenet"], fdr.EmaPopulation(0.9), far, EMA_FILL)[0]
        decoder.load_state_dict(trained.state_dict())

    world = dataclasses.replace(
        world, generator=kept(out / f"near-{settings.near_steps}.safetensors", Decoder, approach)
    )
    recipe = dataclasses.replace(recipe, lr=settings.near_lr)
    compare_populations(rows, world, "squeezenet", recipe, QUEUES, EMA_FILL, start="near: ")


def many_steps_to_one(rows: Rows, world: World, flow: UNet, beta: float, recipe: Recipe, out: Path) -> None:
    """The flow network sampled in many steps, in one, and in one after post-training."""
    generator = OneStep(flow, (3, 32, 32))
    world = dataclasses.replace(world, generator=generator, noise_shape=(3, 32, 32))

    def sampled(count: int) -> Row:
        images = sample(world, lambda z: generator.sample(z, count), world.evaluated)
        save_image(images[:64], out / f"flow-{count}.png")
        return distances(world, images)

    def post_trained() -> Row:
        trained, row = post_train(world, ["squeezenet", "random"], fdr.EmaPopulation(beta), recipe, EMA_FILL)
        save_image(sample(world, trained, 64), out / "flow-post-trained.png")
        return row

    rows.row("flow, 50 steps", lambda: sampled(50))
    rows.row("flow, 1 step", lambda: sampled(1))
    rows.row("flow, 1 step, post-trained", post_trained)


if __name__ == "__main__":
    main()
