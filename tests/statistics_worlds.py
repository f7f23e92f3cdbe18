"""Small statistics in the layout of every tool, written as the tool itself writes them."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

DIM, SPATIAL, COUNT = 6, 5, 40


def features(dim: int = DIM, count: int = COUNT, seed: int = 0) -> np.ndarray:
    """float32 [count, dim]."""
    return np.random.default_rng(seed).normal(1, 2, (count, dim)).astype(np.float32)


def pair(dim: int = DIM, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance as peers compute them."""
    rows = features(dim, seed=seed).astype(np.float64)
    return rows.mean(0), np.cov(rows, rowvar=False)


def named(prefix: str = "", suffix: str = "", dim: int = DIM, seed: int = 0) -> dict[str, np.ndarray]:
    """{"mu": ..., "sigma": ...} with something before and after the names."""
    mu, sigma = pair(dim, seed)
    return {f"{prefix}mu{suffix}": mu, f"{prefix}sigma{suffix}": sigma}


def write_npz(path: Path) -> None:
    np.savez_compressed(path, **named())


def write_adm(path: Path) -> None:
    images = np.zeros((3, 4, 4, 3), np.uint8)
    np.savez(path, arr_0=images, **named(), **named("", "_s", SPATIAL, 1))


def write_fdloss(path: Path) -> None:
    np.savez(path, **named(), **named("avg_", seed=2))


def write_fd_evaluator(path: Path) -> None:
    np.savez(path, **named("ref_"))


def write_edm2(path: Path) -> None:
    data = {"num_images": COUNT, "fid": named(), "fd_dinov2": named(dim=SPATIAL, seed=1)}
    path.write_bytes(pickle.dumps(data))


def write_bundle(path: Path) -> None:
    dino = "vit_large_patch14_dinov2_lvd142m_in256_t256_stats.npz"
    data = {"guided_diffusion_stats.npz": named(), dino: {**named(seed=3), **named("avg_", seed=2)}}
    path.write_bytes(pickle.dumps(data))


def write_torch(path: Path) -> None:
    import torch

    torch.save(named(), path)


def write_torch_features(path: Path) -> None:
    import torch

    torch.save(torch.from_numpy(features()), path)


def write_dgm(path: Path) -> None:
    hparams = np.array({"arch": "vitl14"}, dtype=object)
    np.savez(path, reps=features().astype(np.float64), model="dinov2", hparams=hparams)


def write_kid(path: Path) -> None:
    np.savez_compressed(path, feats=features())


def write_x(path: Path) -> None:
    np.savez(path, X=features())


def write_npy(path: Path) -> None:
    np.save(path, features())


def write_names(mean: str, covariance: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        np.savez(path, **dict(zip((mean, covariance), pair(), strict=True)))

    return write


def write_positional(path: Path) -> None:
    np.savez(path, *pair())


def write_score_sde(path: Path) -> None:
    np.savez_compressed(path, pool_3=features(), logits=features(3))


def write_nameless_features(path: Path) -> None:
    np.savez(path, features())


def write_dict(path: Path) -> None:
    np.save(path, named(), allow_pickle=True)


def write_tuple(path: Path) -> None:
    path.write_bytes(pickle.dumps(pair()))


def write_torch_tuple(path: Path) -> None:
    import torch

    torch.save(tuple(map(torch.from_numpy, pair())), path)


def write_stylegan_features(path: Path) -> None:
    path.write_bytes(pickle.dumps(stylegan(capture_all=True)))


def stylegan(capture_all: bool = False) -> dict[str, Any]:
    """The fields of StyleGAN3's `FeatureStats` after its `append` of these features in two batches."""
    rows = features()
    sums = rows.astype(np.float64)
    return {
        "capture_all": capture_all,
        "capture_mean_cov": not capture_all,
        "max_items": COUNT,
        "num_items": COUNT,
        "num_features": DIM,
        "all_features": [rows[:30], rows[30:]] if capture_all else None,
        "raw_mean": None if capture_all else sums.sum(axis=0),
        "raw_cov": None if capture_all else sums.T @ sums,
    }


WRITERS: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "pytorch-fid": (write_npz, ".npz", "npz"),
    "adm": (write_adm, ".npz", "adm"),
    "fdloss": (write_fdloss, ".npz", "fdloss"),
    "fd-evaluator": (write_fd_evaluator, ".npz", "fd-evaluator"),
    "edm2": (write_edm2, ".pkl", "edm2"),
    "bundle": (write_bundle, ".pkl", "fdloss-bundle"),
    "torch": (write_torch, ".pt", "torch-fidelity"),
    "torch-features": (write_torch_features, ".pt", "torch-fidelity"),
    "dgm": (write_dgm, ".npz", "dgm-eval"),
    "kid": (write_kid, ".npz", "clean-fid-kid"),
    "x": (write_x, ".npz", "fd-evaluator"),
    "npy": (write_npy, ".npy", "npy"),
    "m-s": (write_names("m", "s"), ".npz", "npz"),
    "mean-cov": (write_names("mean", "cov"), ".npz", "npz"),
    "Mu-Sigma": (write_names("Mu", "Sigma"), ".npz", "npz"),
    "mu-cov": (write_names("mu", "cov"), ".npz", "npz"),
    "positional": (write_positional, ".npz", "npz"),
    "score-sde": (write_score_sde, ".npz", "fd-evaluator"),
    "nameless": (write_nameless_features, ".npz", "fd-evaluator"),
    "dict": (write_dict, ".npy", "pickle"),
    "tuple": (write_tuple, ".pkl", "pickle"),
    "torch-tuple": (write_torch_tuple, ".pt", "torch-fidelity"),
    "stylegan-features": (write_stylegan_features, ".pkl", "stylegan"),
}
"""Case -> how to write it, the suffix that its tool uses, the name that fdr gives the format."""


def write(case: str, folder: Path, suffix: str | None = None) -> Path:
    """A file of that case; with a wrong `suffix` on demand, because names must not matter."""
    writer, own, _ = WRITERS[case]
    path = folder / f"stats{own}"
    writer(path)
    return path if suffix is None else path.rename(path.with_suffix(suffix))


def malicious(target: Path) -> Any:
    """An object whose unpickling creates `target`."""

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return open, (str(target), "w")

    return Bomb()
