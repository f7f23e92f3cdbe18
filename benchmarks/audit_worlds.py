"""The image sets and the encoders of `audit_classes.py`: photos, digits and faces. It is no script."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from cas_mnist import decoded
from fd_loss_mnist import MlpGenerator
from gan_networks import LATENT, dcgan, efficientnet, inception
from safetensors.torch import load_file
from squeezenet import SqueezeNetEncoder
from torch import Tensor, nn

from fdr.encoders import AbstractEncoder, EncoderSpec

BATCH = 100
RARE = (0.3, 0.2, 0.15, 0.1, 0.08, 0.06, 0.05, 0.03, 0.02, 0.01)
"""The shares of the ten classes in the set of photos with wrong class frequencies."""


@dataclass(frozen=True)
class World:
    """Three sets of uint8 images [N, H, W, 3]."""

    reference: tuple[str, np.ndarray]
    """A name, and the images."""
    samples: tuple[str, np.ndarray]
    baseline: tuple[str, np.ndarray]
    labels: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
    """The true classes of the samples, the reference and the baseline, where they are known."""


def photos(data: Path, count: int) -> World:
    """CIFAR-10 photos in equal shares of the classes, against others in equal and in unequal shares."""
    found = np.load(data / "cifar10" / "train10k.npz")
    images, labels = found["arr_0"], found["arr_1"]
    order = np.random.default_rng(0).permutation(len(labels))
    ranks = np.empty(len(labels), int)  # which image of its class each one is
    for number in range(10):
        mine = order[labels[order] == number]
        ranks[mine] = np.arange(len(mine))
    each = count // 10
    wrong = np.rint(count * np.array(RARE)).astype(int)
    parts = ranks < each, (ranks >= each) & (ranks < 2 * each), (ranks >= 2 * each) & (ranks < 2 * each + wrong[labels])
    equal, other, unequal = (images[part] for part in parts)
    known = labels[parts[1]], labels[parts[0]], labels[parts[2]]
    return World(("photos", equal), ("other photos", other), ("unequal classes", unequal), known)


def digits(data: Path, count: int) -> World:
    """Real digits against those of an MLP GAN and of a VAE."""
    folder = data / "mnist"
    random = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        gan = MlpGenerator(folder / "mlp_gan.safetensors")(torch.randn(count, 64, generator=random))
        latents = torch.randn(count, 20, generator=random)
        vae = decoded(latents, load_file(folder / "vae.safetensors"))
    real = np.load(folder / "train20k.npz")["arr_0"][:count]
    return World(("digits", real.repeat(3, 3)), ("VAE", vae.repeat(3, 3)), ("MLP GAN", in_bytes(gan)))


def faces(data: Path, count: int) -> World:
    """Faces of a DCGAN against others of it, of its own noise and of noise that is multiplied by 0.7."""
    generator = dcgan(data / "weights" / "dcgan_faces64.safetensors")

    @torch.inference_mode()
    def drawn(seed: int, scale: float) -> np.ndarray:
        random, found = torch.Generator().manual_seed(seed), []
        for start in range(0, count, BATCH):
            z = scale * torch.randn(min(BATCH, count - start), LATENT, 1, 1, generator=random)
            found.append(in_bytes((generator(z) + 1) / 2))
        return np.concatenate(found)

    return World(("faces", drawn(0, 1)), ("other faces", drawn(1, 1)), ("faces of z times 0.7", drawn(2, 0.7)))


WORLDS: dict[str, Callable[[Path, int], World]] = {"photos": photos, "digits": digits, "faces": faces}


def in_bytes(images: Tensor) -> np.ndarray:
    """[N, 1 or 3, H, W] in [0, 1] -> uint8 [N, H, W, 3]."""
    grey = images.clamp(0, 1).mul(255).round().to(torch.uint8)
    return grey.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().numpy()


class Network(AbstractEncoder):
    """A network whose images are resized to `side`: its features, and logits where `last` has the layer for them."""

    def __init__(
        self, name: str, weights: Path, network: nn.Module, side: int, dim: int, outputs: Sequence[str] = ("pool",)
    ) -> None:
        digest = hashlib.sha256(weights.read_bytes()).hexdigest()
        self.spec = EncoderSpec(name, "benchmark", name, digest, "pool", dim, side, "bilinear", (0.0,) * 3, (1.0,) * 3)
        self.device = torch.device("cpu")
        self.outputs = self.stored_outputs = tuple(outputs)
        self.network = network.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    def preprocess(self, images: Tensor) -> Tensor:
        side = self.spec.input_size
        return F.interpolate(images, (side, side), mode="bilinear", align_corners=False, antialias=True)

    def forward(self, inputs: Tensor, outputs: Sequence[str]) -> dict[str, Tensor]:
        found = {"pool": self.network(inputs.contiguous(memory_format=torch.channels_last))}
        if "logits" in outputs:
            found["logits"] = F.linear(found["pool"], *self.last)
        return {name: found[name] for name in outputs}

    last: tuple[Tensor, Tensor]
    """Weight and bias of the layer that gives the logits, where there is one."""


def encoders(data: Path, side: int, inception_side: int) -> list[Network]:
    """EfficientNet-Lite0, which gives the classes, and two held-out ones; `side` is that of the first two's input."""
    folder = data / "weights"
    files = [folder / f"{name}.safetensors" for name in NAMES]
    first = Network("efficientnet-lite0", files[0], efficientnet(files[0]), side, 1280, ("pool", "logits"))
    weights = load_file(files[0])
    first.last = weights["classifier.weight"], weights["classifier.bias"]
    squeezenet = Network("squeezenet", files[1], SqueezeNetEncoder(files[1], side), side, 512)
    return [first, squeezenet, Network("nsfw-inception", files[2], inception(files[2]), inception_side, 2048)]


NAMES = ("efficientnet_lite0", "squeezenet1_1", "inception_v3_nsfwjs_f16")
"""The files of weights."""
