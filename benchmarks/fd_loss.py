"""FD-loss of one encoder, loss and gradient: autograd through eigvalsh and the solvers exact, fast, local side by side.

    python benchmarks/fd_loss.py                             # times; d = 2048, B = 1024, 200 steps: some three minutes
    python benchmarks/fd_loss.py --errors errors.json        # the error of every step: six minutes
    python benchmarks/fd_loss.py --errors errors.json --exact-every 1         # all against exact: a quarter of an hour
    python benchmarks/fd_loss.py --errors errors.json --stop-after 300        # so much of it; next time it goes on
    python benchmarks/fd_loss.py --steps 3 --others 3        # local beside exact: a minute and a half
    python benchmarks/fd_loss.py --batch-weights --steps 24 --fill 8192     # what the debiased batch weight costs
    python benchmarks/fd_loss.py --device cuda --json times.json

All sides see the same batches of a generator of correlated Gaussian features that drifts towards the reference: its
transform moves by `--drift` of the whole way within the run.

Times are of the processor (all threads; set OMP_NUM_THREADS=1) on the CPU and of the clock on a GPU, generation left
out. `fast` takes all steps, and its average holds its refreshes, estimates and chord steps. `exact`, `local` and
autograd, which do the same work at every step, are timed at `--others` of the steps, spread over the run, with the
population as it was filled. Memory is that of all tensors the population holds, at its largest: in the first
step after the fill, later between steps, later with a step pending.

Errors are of the gradient and of FD of `fast`. At every `--exact-every`-th step, at refreshes and at the last step they
are against `exact`, which makes an eigendecomposition in float64 of moments of its own. At the others the gradient is
against M^{-1/2} after two chord steps from the first order (four products d x d x d). How far that is from the true one
is estimated too, as "left", and at the steps with `exact` it is measured, as "of_expansion". What was found is in the
file, the populations in one beside it; the same command goes on from there.

With `--batch-weights` the two batch weights of an EMA take the same steps in turns, `fast` every step and `exact` those
of `--others`. Ratios are of the medians of steps without estimate, chord steps or refresh, and of the sums of all.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
import numpy as np
import torch
from torch import Tensor

from fdr.frechet import Moments
from fdr.loss import EmaPopulation, LossOptions
from fdr.loss.ema_term import EmaTerm
from fdr.loss.expansion import Expansion, sketched_norm
from fdr.loss.fast_term import FastEmaTerm
from fdr.loss.frozen_basis import Frozen
from fdr.loss.options import BATCH_WEIGHTS
from fdr.loss.rank_terms import make_term
from fdr.loss.terms import AbstractTerm, TermValue
from fdr.loss.transport import Diagnostics, Transport, frechet_loss


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
        mean = beta * moments.average.mean + (1 - beta) * rows.mean(0)
        second = beta * (moments.sigma + torch.outer(moments.average.mean, moments.average.mean))
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


class World:
    """The generator, and both populations filled with the same batches of it."""

    def __init__(self, options: argparse.Namespace, is_filled: bool = True, has_local: bool = False) -> None:
        self.generator = Generator(options)
        population = EmaPopulation(options.beta)
        self.all = {
            name: make_term(
                population, self.generator.reference, LossOptions(name), device=torch.device(options.device)
            )
            for name in ("fast", "exact", *(("local",) if has_local else ()))
        }
        self.fast, self.exact = self.all["fast"], self.all["exact"]
        filled = 0
        while is_filled and filled < options.fill:
            rows = self.generator.batch(-1 - filled, 2048)
            for term in self.all.values():
                term.fill(rows)
            filled += len(rows)

    @property
    def terms(self) -> dict[str, AbstractTerm]:
        return {"fast": self.fast, "exact": self.exact}


SETUP = ("dim", "batch", "beta", "steps", "drift", "condition", "fill", "device")
"""What two runs must share to be of the same steps."""


def timed(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds a step; the distances tell whether two runs were of the same steps."""
    world = World(options, has_local=True)
    fast, exact, local = world.fast, world.exact, world.all["local"]
    assert isinstance(exact, EmaTerm)
    autograd = Autograd(exact, world.generator.reference)
    times: dict[str, list[float]] = {"autograd": [], "exact": [], "local": [], "fast": []}
    routes, distances = [], []
    memory = {"first_step": 0, "resting": 0, "pending": 0}
    others = {round(x) for x in np.linspace(0, options.steps - 1, options.others)}
    for step in range(options.steps):
        rows = world.generator.batch(step, options.batch)
        resting = held_bytes(fast)
        elapsed, (value, _) = seconds(options.device, through_autograd, fast, rows)
        pending = held_bytes(fast)
        for name, size in {"resting": resting, "pending": pending}.items() if step else {"first_step": pending}.items():
            memory[name] = max(memory[name], size)
        routes.append((value.diagnostics.route, value.diagnostics.error_estimate is not None))
        distances.append(float(value.fd))
        commit, _ = seconds(options.device, fast.commit)
        times["fast"].append(elapsed + commit)
        if step in others:
            elapsed, (_, theirs) = seconds(options.device, autograd, rows)
            times["autograd"].append(elapsed)
            elapsed, (_, ours) = seconds(options.device, through_autograd, exact, rows)
            times["exact"].append(elapsed)
            elapsed, _ = seconds(options.device, through_autograd, local, rows)
            times["local"].append(elapsed)
            exact.discard()
            local.discard()
            shown = ", ".join(f"{name} {values[-1]:.3g} s" for name, values in times.items())
            print(f"step {step}: {shown}; exact against autograd {relative(ours, theirs):.1e}", flush=True)
    square = 8 * options.dim**2
    means = {name: float(np.mean(values)) for name, values in times.items()}
    plain = [
        t
        for t, (route, was_estimated) in zip(times["fast"], routes, strict=True)
        if route == "frozen" and not was_estimated
    ]
    return {
        **{name: getattr(options, name) for name in SETUP},
        "threads": torch.get_num_threads(),
        "seconds_per_step": means,
        "speed_up_of_fast": means["autograd"] / means["fast"],
        "local_against_exact": means["local"] / means["exact"],
        "speed_up_of_exact": means["autograd"] / means["exact"],
        "refreshes": sum(route == "refresh" for route, _ in routes),
        "chord_steps": sum(route == "frozen-2" for route, _ in routes),
        "estimates": sum(was_estimated for _, was_estimated in routes),
        "mean_plain_step_of_fast": float(np.mean(plain)) if plain else None,
        "largest_step_of_fast": max(times["fast"]),
        "memory_in_d2_float64": {name: size / square for name, size in memory.items()},
        "times": times,
        "fd": distances,
    }


def of_batch_weights(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds a step, evaluated and committed, by solver and batch weight."""
    generator = Generator(options)
    names = [(solver, weight) for solver in ("fast", "exact") for weight in BATCH_WEIGHTS]
    terms = {
        (solver, weight): make_term(
            EmaPopulation(options.beta, weight),
            generator.reference,
            LossOptions(solver),
            device=torch.device(options.device),
        )
        for solver, weight in names
    }
    for first in range(0, options.fill, 2048):
        for term in terms.values():
            term.fill(generator.batch(-1 - first, min(2048, options.fill - first)))
    steady = torch.tensor((1 - options.beta) / (1 + options.beta) / options.batch, dtype=torch.float64)
    for term in terms.values():  # the weights as they are when the fill is forgotten, from when on they differ
        term.load_state_dict({**term.state_dict(), "squares": steady})
    times: dict[tuple[str, str], list[tuple[float, bool]]] = {name: [] for name in names}
    others = {round(x) for x in np.linspace(0, options.steps - 1, options.others)}
    for step in range(options.steps):
        rows = generator.batch(step, options.batch)
        for name in names if step % 2 else names[::-1]:
            if name[0] == "fast" or step in others:
                elapsed, (value, _) = seconds(options.device, through_autograd, terms[name], rows)
                commit, _ = seconds(options.device, terms[name].commit)
                found = value.diagnostics
                is_plain = name[0] == "exact" or (found.route == "frozen" and found.error_estimate is None)
                times[name].append((elapsed + commit, is_plain))
        print(
            f"step {step}: " + ", ".join(f"{' '.join(n)} {t[-1][0]:.3g} s" for n, t in times.items() if t), flush=True
        )
    plain = {name: float(np.median([t for t, is_plain in of if is_plain])) for name, of in times.items()}
    total = {name: sum(t for t, _ in of) for name, of in times.items()}
    ratios = {
        f"{solver}, {kind}": values[solver, "debiased"] / values[solver, "paper"]
        for solver in ("fast", "exact")
        for kind, values in {"median": plain, "sum": total}.items()
    }
    return {
        **{name: getattr(options, name) for name in SETUP},
        "threads": torch.get_num_threads(),
        "median_seconds": {" ".join(name): value for name, value in plain.items()},
        "debiased_over_paper": ratios,
        "times": {" ".join(name): [t for t, _ in of] for name, of in times.items()},
    }


def expanded(term: FastEmaTerm, rows: Tensor) -> tuple[Tensor, float] | None:
    """The gradient of the pending step after two chord steps, and how far off it is; None in a refresh."""
    basis = term.pending.basis
    if not isinstance(basis, Frozen) or basis.schedule.age == 0:
        return None
    entry = term.stepped(rows.double())
    centred = entry.recentred(torch.float32)
    first = Expansion(basis.roots.float(), basis.change)
    expansion, _ = first.after_chord_steps(first.correction())
    correction, scaled = expansion.correction(), centred @ basis.high
    moved = (scaled / first.roots - scaled @ correction) @ basis.high.T
    mean = entry.mean
    pull = mean - term.target.mean
    left = sketched_norm(expansion, correction, scaled, basis.high, 0) / float(
        torch.linalg.norm(centred - moved + pull)
    )
    found = Transport(mean.new_zeros(()), moved, Diagnostics("chord steps"))
    return term._value(mean, mean.new_zeros(()), centred, found, entry.influence).gradient, left


def compared(options: argparse.Namespace) -> dict[str, Any]:
    """Errors of every step; goes on from the file where there is one, until `--stop-after` seconds have passed."""
    file, kept = options.errors, options.errors.with_suffix(".pt")
    setup = {name: getattr(options, name) for name in (*SETUP, "exact_every")}
    found: dict[str, Any] = {**setup, "steps_found": []}
    world = World(options, is_filled=not file.exists())
    if file.exists():
        saved = torch.load(kept, weights_only=True)
        found = json.loads(saved["found"])
        if {name: found[name] for name in setup} != setup:
            raise SystemExit(f"{file} is of another setup; name another file.")
        for name, term in world.terms.items():
            term.load_state_dict(saved[name])
    steps, start = found["steps_found"], time.monotonic()
    for step in range(len(steps), options.steps):
        steps.append(errors_of(world, world.generator.batch(step, options.batch), step, options))
        print(
            f"step {step}: " + ", ".join(f"{k} {v:.1e}" if k != "route" else v for k, v in steps[-1].items()),
            flush=True,
        )
        is_last = step == options.steps - 1 or time.monotonic() - start > options.stop_after
        if is_last or step % 10 == 9:
            states = {name: term.state_dict() for name, term in world.terms.items()}
            torch.save({"found": json.dumps(found), **states}, kept)
            file.write_text(json.dumps(found, indent=1) + "\n")
        if is_last:
            break

    def all_of(name: str) -> list[float]:
        return [one[name] for one in steps if name in one]

    estimated = [one["estimate"] / one["gradient"] for one in steps if "estimate" in one]
    routes = [one["route"] for one in steps]
    return {
        **setup,
        "steps_compared": len(all_of("gradient")),
        "largest_gradient_error": max(all_of("gradient")),
        "largest_left_by_expansion": max(all_of("left"), default=None),
        "largest_error_of_expansion": max(all_of("of_expansion"), default=None),
        "steps_compared_with_exact": len(all_of("fd")),
        "largest_fd_error": max(all_of("fd"), default=None),
        "refreshes": routes.count("refresh"),
        "chord_steps": routes.count("frozen-2"),
        "estimate_over_error": [f(estimated) for f in (min, np.median, max)] if estimated else None,
    }


def errors_of(world: World, rows: Tensor, step: int, options: argparse.Namespace) -> dict[str, Any]:
    """Errors of one step, which both populations take."""
    fast, exact = world.fast, world.exact
    assert isinstance(exact, EmaTerm) and isinstance(fast, FastEmaTerm)
    value = fast.evaluate(rows)
    one: dict[str, Any] = {"route": value.diagnostics.route}
    if value.diagnostics.error_estimate is not None:
        one["estimate"] = value.diagnostics.error_estimate
    truth = expanded(fast, rows) if options.exact_every > 1 else None
    if truth is not None:
        one |= {"gradient": relative(value.gradient, truth[0]), "left": truth[1]}
    if truth is None or step % options.exact_every == 0 or step == options.steps - 1:
        true = exact.evaluate(rows)
        one |= {"gradient": relative(value.gradient, true.gradient), "fd": abs(float(value.fd) / float(true.fd) - 1)}
        if truth is not None:
            one["of_expansion"] = relative(truth[0], true.gradient)
    else:
        exact.pending = exact._with(exact.moments.average.stepped(rows.double(), options.beta))
    fast.commit()
    exact.commit()
    return one


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--beta", type=float, default=0.999)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--drift", type=float, default=0.05, help="share of the way to the reference within the run")
    parser.add_argument("--condition", type=float, default=1e4, help="of the reference's covariance, a power law")
    parser.add_argument("--fill", type=int, default=8192)
    parser.add_argument("--others", type=int, default=4, help="steps at which exact and autograd are timed")
    parser.add_argument("--errors", type=Path, help="measure the error of every step instead; what is found")
    parser.add_argument("--exact-every", type=int, default=20, help="steps between comparisons with exact")
    parser.add_argument("--stop-after", type=float, default=float("inf"), help="seconds; the same command goes on")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-weights", action="store_true", help="time the two batch weights of an EMA instead")
    options = parser.parse_args()
    measure = compared if options.errors else of_batch_weights if options.batch_weights else timed
    result = measure(options)
    harness.write_json(options.json, **result)
    print(json.dumps({name: item for name, item in result.items() if name not in ("times", "fd")}, indent=1))


if __name__ == "__main__":
    main()
