"""FD-loss of one encoder, loss and gradient: autograd through eigvalsh, the exact and the fast solver, side by side.

    python benchmarks/fd_loss.py                       # d = 2048, B = 1024, 200 steps: about ten minutes on one core
    python benchmarks/fd_loss.py --exact-every 1       # the error of every step: half an hour
    python benchmarks/fd_loss.py --dim 256 --exact-every 1
    python benchmarks/fd_loss.py --device cuda --exact-every 1

All sides see the same batches of a generator of correlated Gaussian features that drifts towards the reference: its
transform moves by `--drift` of the whole way within the run. Times are of the processor (all threads; set
OMP_NUM_THREADS=1) on the CPU and of the clock on a GPU, generation left out. The averages of `exact` and of autograd,
which take the same time at every step, are over the steps at which they ran; that of `fast` is over all steps, its
refreshes and estimates included. Memory is that of all tensors the population holds, at its largest: in the first step
after the fill, later between steps, later with a step pending.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fdr._terms import EmaTerm
from fdr.moments import Moments
from fdr.population import EmaPopulation, make_term
from fdr.transport import TermValue, frechet_loss


class Generator:
    """Features z = n (I + a C) R + a o, n normal, with a falling from 1 to 1 - drift; the reference has a = 0."""

    def __init__(self, options: argparse.Namespace) -> None:
        rng = np.random.default_rng(0)
        dim = options.dim
        spectrum = np.arange(1, dim + 1) ** (-np.log(options.condition) / np.log(dim))
        basis, other = (np.linalg.qr(rng.standard_normal((dim, dim)))[0] for _ in range(2))
        sigma = (basis * spectrum) @ basis.T
        self.reference = Moments(np.zeros(dim), (sigma + sigma.T) / 2)
        root = (basis * spectrum**0.5) @ basis.T
        turned = (other * np.linspace(-0.5, 0.5, dim)) @ other.T @ root
        self.root, self.change = (torch.from_numpy(x).float() for x in (root, turned))
        self.offset = 0.5 * torch.from_numpy(rng.standard_normal(dim) @ root).float()
        self.steps, self.drift, self.device = options.steps, options.drift, options.device

    def batch(self, step: int, size: int) -> Tensor:
        away = 1 - self.drift * max(step, 0) / self.steps
        noise = torch.randn(size, len(self.root), generator=torch.Generator().manual_seed(step + 10**6))
        return (noise @ (self.root + away * self.change) + away * self.offset).to(self.device)


class Autograd:
    """The textbook loss: averaged moments, S_p^{1/2} cached, eigvalsh of the product, back-propagated, in float64."""

    def __init__(self, term: EmaTerm, reference: Moments) -> None:
        self.term = term
        values, vectors = np.linalg.eigh(reference.sigma)
        self.root = torch.from_numpy((vectors * np.sqrt(values.clip(0))) @ vectors.T).to(term.device)
        self.trace = float(reference.sigma.trace())

    def __call__(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        moments, beta = self.term.moments, self.term.beta
        rows = rows.double().requires_grad_()
        mean = beta * moments.mean + (1 - beta) * rows.mean(0)
        second = beta * (moments.sigma + torch.outer(moments.mean, moments.mean))
        sigma = second + (1 - beta) / len(rows) * rows.T @ rows - torch.outer(mean, mean)
        root_trace = torch.linalg.eigvalsh(self.root @ sigma @ self.root).clamp(min=0).sqrt().sum()
        fd = (mean - self.term.target.mean).square().sum() + sigma.trace() + self.trace - 2 * root_trace
        fd.backward()
        return fd.detach(), rows.grad


def through_autograd(term: Any, rows: Tensor) -> tuple[TermValue, Tensor]:
    """A step as training takes it: evaluate, backward."""
    rows = rows.clone().requires_grad_()
    value = term.evaluate(rows)
    frechet_loss(rows, value.fd, value.gradient).backward()
    return value, rows.grad


def seconds(device: str, function: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    """Processor seconds on the CPU, seconds of the clock on a GPU, and the result."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    if device != "cpu":
        torch.cuda.synchronize()
    start = clock()
    result = function(*arguments)
    if device != "cpu":
        torch.cuda.synchronize()
    return clock() - start, result


def held_bytes(value: Any, seen: set[int] | None = None) -> int:
    """Bytes of all tensors that an object holds, each storage once."""
    seen = set() if seen is None else seen
    if isinstance(value, Tensor):
        storage = value.untyped_storage()
        is_new = storage.data_ptr() not in seen
        seen.add(storage.data_ptr())
        return storage.nbytes() if is_new else 0
    if dataclasses.is_dataclass(value) or hasattr(value, "__dict__"):
        return sum(held_bytes(item, seen) for item in vars(value).values())
    if isinstance(value, tuple | list):
        return sum(held_bytes(item, seen) for item in value)
    return 0


def relative(a: Tensor, b: Tensor) -> float:
    return float(torch.linalg.norm(a.double() - b.double()) / torch.linalg.norm(b.double()))


def run(options: argparse.Namespace) -> dict[str, Any]:
    generator = Generator(options)
    population = EmaPopulation(options.beta)
    fast, exact = (
        make_term(population, generator.reference, solver, device=options.device) for solver in ("fast", "exact")
    )
    assert isinstance(exact, EmaTerm)
    autograd = Autograd(exact, generator.reference)
    filled = 0
    while filled < options.fill:
        rows = generator.batch(-1 - filled, 2048)
        for term in (fast, exact):
            term.fill(rows)
        filled += len(rows)
    times: dict[str, list[float]] = {"autograd": [], "exact": [], "fast": []}
    errors, fd_errors, distances, routes = [], [], [], []
    memory = {"first_step": 0, "resting": 0, "pending": 0}
    for step in range(options.steps):
        rows = generator.batch(step, options.batch)
        resting = held_bytes(fast)
        elapsed, (value, gradient) = seconds(options.device, through_autograd, fast, rows)
        pending = held_bytes(fast)
        for name, size in {"resting": resting, "pending": pending}.items() if step else {"first_step": pending}.items():
            memory[name] = max(memory[name], size)
        routes.append(value.diagnostics.route)
        commit, _ = seconds(options.device, fast.commit)
        times["fast"].append(elapsed + commit)
        if step % options.exact_every == 0 or step == options.steps - 1:
            if len(times["autograd"]) < options.autograd_steps:
                elapsed, (_, theirs) = seconds(options.device, autograd, rows)
                times["autograd"].append(elapsed)
            elapsed, (true, truth) = seconds(options.device, through_autograd, exact, rows)
            times["exact"].append(elapsed)
            errors.append(relative(gradient, truth))
            fd_errors.append(abs(float(value.fd) / float(true.fd) - 1))
            distances.append(float(true.fd))
            if len(times["exact"]) == 1:
                print(f"exact against autograd: {relative(truth, theirs):.1e}", flush=True)
            print(f"step {step}: FD {float(true.fd):.6g}, gradient error {errors[-1]:.1e}", flush=True)
        else:
            averaging, share = exact.moments.averaging.stepped(options.beta)
            exact.pending = exact.moments.absorbing(rows.double(), averaging, share)
        exact.commit()
    square = 8 * options.dim**2
    means = {name: float(np.mean(values)) for name, values in times.items()}
    return {
        "dim": options.dim,
        "batch": options.batch,
        "beta": options.beta,
        "steps": options.steps,
        "seconds_per_step": means,
        "speed_up_of_fast": means["autograd"] / means["fast"],
        "speed_up_of_exact": means["autograd"] / means["exact"],
        "refreshes": routes.count("refresh"),
        "estimates": routes.count("frozen-2"),
        "largest_gradient_error": max(errors),
        "steps_compared": len(errors),
        "largest_fd_error": max(fd_errors),
        "fd_first_and_last": [distances[0], distances[-1]],
        "median_step_of_fast": float(np.median(times["fast"])),
        "largest_step_of_fast": max(times["fast"]),
        "memory_in_d2_float64": {name: size / square for name, size in memory.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--beta", type=float, default=0.999)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--drift", type=float, default=0.05, help="share of the way to the reference within the run")
    parser.add_argument("--condition", type=float, default=1e4, help="of the reference's covariance, a power law")
    parser.add_argument("--fill", type=int, default=8192)
    parser.add_argument("--exact-every", type=int, default=20, help="steps between comparisons with exact")
    parser.add_argument("--autograd-steps", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    result = run(options)
    text = json.dumps(result, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
