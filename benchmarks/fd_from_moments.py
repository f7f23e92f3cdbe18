"""FD from moments: time, memory and error of fdr beside the routes of pytorch-fid, torchmetrics and torch-fidelity.

    python benchmarks/fd_from_moments.py                # d = 2048, some minutes
    python benchmarks/fd_from_moments.py --quick        # d = 256, seconds
    python benchmarks/fd_from_moments.py --json out.json

Every route runs in a process of its own on the same files, one after the other; memory is the peak above the loaded
inputs. The truth of each case is known without any of the routes:

- full rank: S2 = T S1 T with T symmetric positive definite, not commuting with S1, so tr (S1 S2)^1/2 = tr (S1 T);
  the spectrum of S1 is a power law with condition 1e6;
- few samples: N = 500 features for d dimensions on both sides, known as features; the nuclear norm of X Y^T;
- few samples against a full reference: the same N = 500 against the moments of the full-rank case;
- rank-deficient moments: N = 1000 and N = 1900 for d = 2048, but only mu and sigma are given;
- dead columns: 10,000 ReLU features of width 84, of which 22 never fire.

The peers' own functions are called where they can be imported, and stand-ins of the same operations where not.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
import numpy as np

Route = Callable[[Any, Any], float]
ROUTES = ("fdr", "fdr (reference reused)", "pytorch-fid", "torchmetrics", "torch-fidelity")


# ---------------------------------------------------------------------------------------------- the constructions


def rotation(rng: np.random.Generator, dim: int) -> np.ndarray:
    return np.linalg.qr(rng.standard_normal((dim, dim)))[0]


def full_rank(dim: int) -> tuple[np.ndarray, np.ndarray, float]:
    """S1, S2 = T S1 T and FD."""
    rng = np.random.default_rng(0)
    spectrum = np.arange(1, dim + 1) ** (-6 / np.log10(dim))
    basis, other = rotation(rng, dim), rotation(rng, dim)
    s1 = (basis * spectrum) @ basis.T
    t = (other * np.linspace(0.5, 1.5, dim)) @ other.T
    s1, t = (s1 + s1.T) / 2, (t + t.T) / 2
    s2 = t @ s1 @ t
    s2 = (s2 + s2.T) / 2
    return s1, s2, float(s1.trace() + s2.trace() - 2 * (s1 * t).sum())


def features(num_samples: int, dim: int, seed: int) -> np.ndarray:
    """Features with a power-law spectrum in a basis of their own."""
    rng = np.random.default_rng(seed)
    mix = rotation(rng, dim) * np.arange(1, dim + 1)[:, None] ** -0.5
    return rng.standard_normal((num_samples, dim)) @ mix + 0.5


def centred(x: np.ndarray) -> np.ndarray:
    """A factor of the covariance of x: [N, D] with factor^T factor = cov(x)."""
    return (x - x.mean(0)) / np.sqrt(len(x) - 1)


def nuclear_norm(matrix: np.ndarray) -> float:
    return float(np.linalg.svd(matrix, compute_uv=False).sum())


def truth_of_features(x: np.ndarray, y: np.ndarray) -> float:
    a, b = centred(x), centred(y)
    mean_term = float(np.square(x.mean(0) - y.mean(0)).sum())
    return mean_term + float((a * a).sum() + (b * b).sum()) - 2 * nuclear_norm(a @ b.T)


def dead_columns() -> tuple[np.ndarray, np.ndarray, float]:
    """ReLU features, 22 of 84 columns constant 0 on both sides; the truth from Cholesky factors of the live ones."""
    rng = np.random.default_rng(3)
    mix = rng.standard_normal((84, 84)) * np.arange(1, 85) ** -0.5
    x, y = (np.maximum(rng.standard_normal((10_000, 84)) @ mix + shift, 0) for shift in (0.0, 0.1))
    dead = rng.permutation(84)[:22]
    x[:, dead] = y[:, dead] = 0
    live = np.setdiff1d(np.arange(84), dead)
    a, b = (np.linalg.cholesky(np.cov(z[:, live], rowvar=False)) for z in (x, y))
    mean_term = float(np.square(x.mean(0) - y.mean(0)).sum())
    return x, y, mean_term + float((a * a).sum() + (b * b).sum()) - 2 * nuclear_norm(a.T @ b)


def moments_of(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return x.mean(0), np.cov(x, rowvar=False)


def write_cases(folder: Path, dim: int) -> dict[str, float]:
    """One npz per case with mu1, sigma1, mu2, sigma2 and, where fdr gets them, the features x1, x2; and their FD."""
    few = dim * 500 // 2048
    s1, s2, fd_full = full_rank(dim)
    zero = np.zeros(dim)
    truths = {f"full rank, d={dim}": fd_full}
    np.savez(folder / "0.npz", mu1=zero, sigma1=s1, mu2=zero, sigma2=s2)

    x, y = features(few, dim, 1), 1.1 * features(few, dim, 2)
    truths[f"N={few} features both sides, d={dim}"] = truth_of_features(x, y)
    (mu1, sigma1), (mu2, sigma2) = moments_of(x), moments_of(y)
    np.savez(folder / "1.npz", mu1=mu1, sigma1=sigma1, mu2=mu2, sigma2=sigma2, x1=x, x2=y)

    root = np.linalg.cholesky(s2)
    trace = nuclear_norm(centred(x) @ root)
    truth = float(np.square(mu1).sum() + sigma1.trace() + s2.trace()) - 2 * trace
    truths[f"N={few} features, full-rank reference, d={dim}"] = truth
    np.savez(folder / "2.npz", mu1=mu1, sigma1=sigma1, mu2=zero, sigma2=s2, x1=x)

    for number, scarce in ((3, dim * 1000 // 2048), (4, dim * 1900 // 2048)):
        x, y = features(scarce, dim, 4), 1.1 * features(scarce, dim, 5)
        truths[f"rank-deficient moments, N={scarce}, d={dim}"] = truth_of_features(x, y)
        (mu1, sigma1), (mu2, sigma2) = moments_of(x), moments_of(y)
        np.savez(folder / f"{number}.npz", mu1=mu1, sigma1=sigma1, mu2=mu2, sigma2=sigma2)

    x, y, truth = dead_columns()
    truths["22 of 84 columns dead, N=10000"] = truth
    (mu1, sigma1), (mu2, sigma2) = moments_of(x), moments_of(y)
    np.savez(folder / "5.npz", mu1=mu1, sigma1=sigma1, mu2=mu2, sigma2=sigma2)
    return truths


# ------------------------------------------------------------------------------------------------------ the routes


def run_fdr(case: dict[str, np.ndarray], reuse: bool) -> tuple[Callable[[], float], str]:
    from fdr import Moments
    from fdr.frechet import frechet_terms

    def side(k: int) -> Moments:
        if f"x{k}" in case:
            return Moments.from_features(case[f"x{k}"])
        return Moments(case[f"mu{k}"], case[f"sigma{k}"])

    a, b = side(1), side(2)

    def distance() -> float:
        for moments in (a,) if reuse else (a, b):
            moments.derived.clear()
        return frechet_terms(a, b).value

    return distance, f"fdr, route {frechet_terms(a, b).route}"


def run_pytorch_fid(case: dict[str, np.ndarray]) -> tuple[Callable[[], float], str]:
    import scipy
    import scipy.linalg

    arguments = [case[name] for name in ("mu1", "sigma1", "mu2", "sigma2")]
    if tuple(map(int, scipy.__version__.split(".")[:2])) < (1, 18):
        try:
            from pytorch_fid.fid_score import calculate_frechet_distance

            return lambda: float(calculate_frechet_distance(*arguments)), f"pytorch-fid, scipy {scipy.__version__}"
        except ImportError:
            pass

    def distance() -> float:
        mu1, sigma1, mu2, sigma2 = arguments
        root = scipy.linalg.sqrtm(sigma1 @ sigma2)
        difference = mu1 - mu2
        return float(difference @ difference + sigma1.trace() + sigma2.trace() - 2 * np.real(root).trace())

    return distance, f"stand-in for pytorch-fid: sqrtm of the product, scipy {scipy.__version__}"


def run_torchmetrics(case: dict[str, np.ndarray]) -> tuple[Callable[[], float], str]:
    import torch

    arguments = [torch.from_numpy(case[name]) for name in ("mu1", "sigma1", "mu2", "sigma2")]
    try:
        from torchmetrics.image.fid import _compute_fid

        return lambda: float(_compute_fid(*arguments)), "torchmetrics"
    except ImportError:
        pass

    def distance() -> float:
        mu1, sigma1, mu2, sigma2 = arguments
        root = torch.linalg.eigvals(sigma1 @ sigma2).sqrt().real.sum()
        return float((mu1 - mu2).square().sum() + sigma1.trace() + sigma2.trace() - 2 * root)

    return distance, "stand-in for torchmetrics: torch eigvals of the product"


def run_torch_fidelity(case: dict[str, np.ndarray]) -> tuple[Callable[[], float], str]:
    sides = [{"mu": case[f"mu{k}"], "sigma": case[f"sigma{k}"]} for k in (1, 2)]
    try:
        from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

        return lambda: float(fid_statistics_to_metric(*sides, False)[KEY_METRIC_FID]), "torch-fidelity"
    except ImportError:
        pass

    def distance() -> float:
        a, b = sides
        root = np.sqrt(np.linalg.eigvals(a["sigma"] @ b["sigma"]).astype(complex)).real.sum()
        difference = a["mu"] - b["mu"]
        return float(difference @ difference + a["sigma"].trace() + b["sigma"].trace() - 2 * root)

    return distance, "stand-in for torch-fidelity: numpy eigvals of the product"


def prepare(route: str, case: dict[str, np.ndarray]) -> tuple[Callable[[], float], str]:
    if route.startswith("fdr"):
        return run_fdr(case, reuse=route != "fdr")
    others = {"pytorch-fid": run_pytorch_fid, "torchmetrics": run_torchmetrics, "torch-fidelity": run_torch_fidelity}
    return others[route](case)


def measure(route: str, path: str, repeats: int, threads: int) -> dict[str, Any]:
    """Called in a process of its own."""
    import torch

    torch.set_num_threads(threads)
    with np.load(path) as file:
        case = {name: file[name] for name in file.files}
    distance, label = prepare(route, case)
    before = harness.resident_mib()
    turns = harness.take_turns({route: distance}, repeats, warm_up=False)[route]
    peak = harness.peak_mib()
    return {
        "label": label,
        "fd": turns.result,
        **turns.to_dict(),
        "peak_mib": peak,
        "extra_mib": max(0.0, peak - before),
    }


# ------------------------------------------------------------------------------------------------------- the table


def table(case: str, truth: float, rows: dict[str, dict[str, Any]]) -> str:
    header = ("route", "CPU s", "wall s", "CPU vs fdr", "relative error of FD", "peak memory, MiB (above inputs)")
    return f"\n### {case} (FD = {truth:.6g})\n\n" + harness.table(
        (*header, "what ran"), (cells(route, row, rows["fdr"]["cpu_s"], truth) for route, row in rows.items())
    )


def cells(route: str, row: dict[str, Any], ours: float, truth: float) -> list[str]:
    if "error" in row:
        return [route, *["-"] * 5, row["error"]]
    seconds = [f"{row['cpu_s']:.3f}", f"{row['wall_s']:.3f}", f"{row['cpu_s'] / ours:.1f}x"]
    memory = f"{row['peak_mib']:.0f} ({row['extra_mib']:.0f})"
    return [route, *seconds, f"{abs(row['fd'] - truth) / truth:.1e}", memory, row["label"]]


def in_child(route: str, path: Path, repeats: int, threads: int) -> dict[str, Any]:
    try:
        environment = harness.environment_with(threads)
        return harness.in_child(
            __file__, "measure", environment=environment, route=route, path=str(path), repeats=repeats, threads=threads
        )
    except RuntimeError as error:
        return {"error": str(error)}


def main() -> None:
    parser = harness.parser(__doc__, repeats=3)
    parser.add_argument("--quick", action="store_true", help="d = 256 instead of 2048")
    parser.add_argument("--threads", type=int, default=1, help="of every route; waiting threads count as CPU time")
    options = parser.parse_args()
    print(f"Medians of {options.repeats} runs; {harness.machine_line(threads=options.threads)}.")
    results = {}
    with tempfile.TemporaryDirectory() as name:
        truths = write_cases(Path(name), 256 if options.quick else 2048)
        for number, (case, truth) in enumerate(truths.items()):
            path = Path(name) / f"{number}.npz"
            rows = {route: in_child(route, path, options.repeats, options.threads) for route in ROUTES}
            print(table(case, truth, rows), flush=True)
            results[case] = {"truth": truth, "routes": rows}
    harness.write_json(options.json, results=results)


if __name__ == "__main__":
    main()
