"""The options that a command hands on to the library.

They are listed by command and option, with the arguments before it, its value, the place of the library at which the
value arrives, and what arrives there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

IMAGES = {
    "--count": ("7", "images.count", 7),
    "--seed": ("5", "images.seed", 5),
    "--crop": ("adm", "images.crop", "adm"),
    "--size": ("9", "images.size", 9),
    "--transparency": ("white", "images.alpha", "white"),
    "--on-bad": ("skip", "images.on_bad", "skip"),
    "--max-bad": ("0.25", "images.max_bad", 0.25),
    "--max-pixels": ("1000000", "images.max_pixels", 1_000_000),
}
COMPUTING = {
    "--device": ("cpu", "encoder.device", "cpu"),
    "--batch-size": ("3", "extraction.batch_size", 3),
    "--num-workers": ("2", "extraction.num_workers", 2),
    "--dtype": ("bf16", "encoder.dtype", "bf16"),
    "--tf32": (None, "encoder.tf32", True),
    "--cache": ("c", "extraction.cache", Path("c")),
    "--no-cache": (None, "extraction.cache", None),
    "--weights-dir": ("w", "encoder.weights_dir", Path("w")),
    "--weights": ("random=r.pt", "weights", {"random": Path("r.pt")}),
    "--offline": (None, "encoder.offline", True),
}
MORE_COMPUTING = {
    "--exact-order": (None, "encoder.exact_order", True),
    "--moments-only": (None, "extraction.moments_only", True),
}
MODEL = {
    "--gen": ("h.pt2", "generator.path", Path("h.pt2")),
    "--arch": ("m:build", "generator.arch", "m:build"),
    "--arch-args": ("width=3 act=relu", "generator.arch_args", {"width": 3, "act": "relu"}),
    "--ema": ("edm_250", "generator.ema", "edm_250"),
    "--noise-shape": ("3x4x5", "generator.noise_shape", (3, 4, 5)),
    "--num-classes": ("6", "generator.num_classes", 6),
    "--value-range": ("-1:1", "generator.value_range", (-1.0, 1.0)),
    "--trust": (None, "generator.trust", True),
    "--num-images": ("11", "drawn.count", 11),
    "--labels": ("balanced", "drawn.labels", "balanced"),
}
MEASUREMENT = {
    "--ref": ("other", "evaluator.reference", "other"),
    "--reps": ("dinov2", "evaluator.encoders", "dinov2"),
    "--metrics": ("is", "evaluator.metrics", "is"),
    "--protocol": ("adm", "evaluator.protocol.name", "adm"),
    "--trained-on": ("dinov2", "evaluator.trained_on", "dinov2"),
    "--training-set": ("t.npz", "evaluator.training_set", "t.npz"),
    "--prompts": ("p.csv", "evaluator.prompts", "p.csv"),
    "--memory": ("64MB", "evaluator.memory", 64_000_000),
}
AUTOENCODER = {
    "--vae": ("dct", "autoencoder.name", "dct"),
    "--vae-weights": ("v.pt", "autoencoder.weights", Path("v.pt")),
    "--vae-args": ("width=3 act=relu", "autoencoder.arguments", {"width": 3, "act": "relu"}),
    "--posterior": ("mean", "autoencoder.posterior", "mean"),
    "--value-range": ("0:1", "autoencoder.value_range", (0.0, 1.0)),
    "--images": ("other.npz", "sets.images", "other.npz"),
    "--neighbours": ("n.npz", "sets.neighbours", "n.npz"),
    "--neighbour-count": ("8", "sets.neighbour_count", 8),
    "--reps": ("dinov2", "reps", "dinov2"),
}
IFID = {
    "--mode": ("linear", "ifid.mode", "linear"),
    "--alpha": ("0,0.25,...,1", "ifid.alphas", (0.0, 0.25, 0.5, 0.75, 1.0)),
    "--top-k": ("3", "ifid.top_k", 3),
    "--same-class": (None, "ifid.same_class", True),
    "--no-clamp": ("--quantize none", "ifid.clamp", False),
    "--quantize": ("none", "ifid.quantize", "none"),
    "--lpips": (None, "ifid.lpips", True),
    "--compat": ("reference", "ifid.compat", "reference"),
    "--latent-dtype": ("float16", "ifid.latent_dtype", "float16"),
    "--memory": ("1.5GB", "ifid.memory", 1_500_000_000),
}
RECON = {
    **{name: AUTOENCODER[name] for name in ("--vae", "--vae-weights", "--vae-args", "--posterior", "--value-range")},
    "--reps": AUTOENCODER["--reps"],
    "--images": ("other.npz", "recon.images", "other.npz"),
    "--lpips": (None, "recon.lpips", "lpips"),
    "--worst": ("3", "recon.worst", 3),
}
GATE = {
    "--max": ("fd=9", "gate.limits.1.bound", 9.0),
    "--min": ("fd=9", "gate.limits.1.side", "min"),
    "--tolerance": ("fd=2%", "gate.tolerances.0.amount", 0.02),
    "--allow": ("n", "gate.allow", ("n",)),
    "--allow-missing": (None, "gate.allow_missing", True),
    "--inconclusive": ("fail", "gate.inconclusive", "fail"),
    "--confidence": ("0.9", "gate.confidence", 0.9),
}
TRAIN = ["--gen", "g.pt2", "-o", "run", "--reps", "random", "--ref", "demo", "--steps", "50"]
TRAINED = {
    "--gen": ("h.pt2", "train.gen", "h.pt2"),
    "--arch": ("m:build", "train.arch", "m:build"),
    "--arch-args": ("width=3", "train.arch_args", {"width": 3}),
    "--ema": ("edm_250", "train.ema", "edm_250"),
    "--noise-shape": ("3x4x5", "train.noise_shape", (3, 4, 5)),
    "--num-classes": ("6", "train.num_classes", 6),
    "--value-range": ("-1:1", "train.value_range", (-1.0, 1.0)),
    "--reps": ("random:3,random:4", "train.reps", ("random:3", "random:4")),
    "--monitor": ("random:3", "train.monitor", ("random:3",)),
    "--ref": ("r.npz", "train.reference", "r.npz"),
    "--population": ("queue:64", "train.population", "queue:64"),
    "--lag-correction": (None, "train.lag_correction", True),
    "--lag-every": ("5", "train.lag_every", 5),
    "--fill": ("17", "train.fill", 17),
    "--solver": ("exact", "train.solver", "exact"),
    "--eps": ("0.5", "train.eps", 0.5),
    "--gradient": ("unit", "train.gradient", "unit"),
    "--conditional": ("2.5", "train.conditional", 2.5),
    "--steps": ("23", "train.steps", 23),
    "--batch-size": ("12", "train.batch_size", 12),
    "--chunks": ("2", "train.chunks", 2),
    "--lr": ("0.125", "train.lr", 0.125),
    "--warmup-steps": ("4", "train.warmup_steps", 4),
    "--betas": ("0.5,0.75", "train.betas", (0.5, 0.75)),
    "--weight-decay": ("0.25", "train.weight_decay", 0.25),
    "--clip": ("2.5", "train.clip", 2.5),
    "--ema-kimg": ("1.5,3", "train.ema_kimg", (1.5, 3.0)),
    "--seed": ("9", "train.seed", 9),
    "--dtype": ("bf16", "train.dtype", "bf16"),
    "--encoder-dtype": ("bf16", "train.encoder_dtype", "bf16"),
    "--tf32": (None, "train.tf32", True),
    "--max-skipped": ("3", "train.max_skipped", 3),
}
RUN = {
    "--out": ("other", "run", Path("other")),
    "--device": ("cpu", "run_options.device", "cpu"),
    "--weights-dir": ("w", "run_options.weights_dir", "w"),
    "--offline": (None, "run_options.offline", True),
    "--cache": ("c", "run_options.cache", "c"),
    "--encoder-batch-size": ("5", "run_options.encoder_batch_size", 5),
    "--log-every": ("3", "run_options.log_every", 3),
    "--checkpoint-every": ("7", "run_options.checkpoint_every", 7),
    "--keep": ("4", "run_options.keep", 4),
    "--milestone-every": ("6", "run_options.milestone_every", 6),
    "--grid-every": ("8", "run_options.grid_every", 8),
    "--grid-size": ("9", "run_options.grid_size", 9),
    "--eval-every": ("5", "run_options.eval_every", 5),
    "--alarm-every": ("7", "run_options.alarm_every", 7),
    "--alarm-images": ("300", "run_options.alarm_count", 300),
    "--on-collapse": ("stop", "run_options.on_collapse", "stop"),
    "--eval-images": ("21", "run_options.eval_count", 21),
    "--tensorboard": (None, "run_options.tensorboard", True),
    "--wandb": ("project", "run_options.wandb", "project"),
    "--page": (None, "run_options.page", True),
    "--trust": (None, "run_options.trust", True),
}
SAMPLED = {
    "--device": ("cpu", "generator.device", "cpu"),
    "--batch-size": ("3", "drawn.batch_size", 3),
    "--seed": ("5", "drawn.seed", 5),
    "--offline": (None, "generator.offline", True),
    "--out": ("other.npz", "out", Path("other.npz")),
}
STATS = {
    "--out": ("new.npz", "written.path", Path("new.npz")),
    "--val": ("other.npz", "written.validation.name", "other.npz"),
    "--name": ("mine", "written.name", "mine"),
    "--reps": ("dinov2", "reps", "dinov2"),
}
CONVERT = {
    "--to": ("adm", "convert.to", "adm"),
    "--entry": ("fid", "convert.entry", "fid"),
    "--encoder": ("dinov2", "convert.encoder", "dinov2"),
    "--count": ("12", "convert.count", 12),
    "--keep-images": (None, "convert.keep_images", True),
}
CORRELATE = {
    "--x": ("c", "correlate.names", ("c", "b")),
    "--y": ("c", "correlate.names", ("a", "c")),
    "--log-x": (None, "correlate.x", (0.0, 1.0, 2.0)),
    "--log-y": (None, "correlate.y", (2.0, 3.0, 1.0)),
    "--confidence": ("0.5", "correlate.confidence", 0.5),
    "--seed": ("4", "correlate.seed", 4),
}
EXPLAIN = {name: MEASUREMENT[name] for name in ("--ref", "--reps")} | {
    name: MORE_COMPUTING[name] for name in ("--exact-order",)
}
CAS = {
    "--real": ("other.npz", "cas_sets.real.name", "other.npz"),
    "--val": ("other.npz", "cas_sets.validation.name", "other.npz"),
    "--out": ("other", "out", Path("other")),
    "--recipe": ("tiny", "cas.recipe.name", "tiny"),
    "--steps": ("7", "cas.recipe.steps", 7),
    "--train-on": ("samples", "cas.train_on", ("samples",)),
    "--seed": ("5", "cas.seed", 5),
    "--device": ("cpu", "cas.device", "cpu"),
}
AUDIT = {
    "--ref": ("other.npz", "audited.reference.name", "other.npz"),
    "--reps": ("dinov2", "reps", "dinov2"),
    "--held-out": ("dinov2", "reps", "inception,dinov2"),
    "--baseline": ("other.npz", "audited.baseline.name", "other.npz"),
    "--top-n": ("3", "audit.top_n", 3),
    "--steps": ("7", "audit.steps", 7),
}
FETCH = {
    "--to": ("usb", "fetch.to", Path("usb")),
    "--weights-dir": ("w", "fetch.options.weights_dir", Path("w")),
    "--offline": (None, "fetch.options.offline", True),
}
STORE = {"--cache": ("c", "store", Path("c"))}
GPUS = {"--gpus": ("3", "gpus", 3)}
GEN = ["--gen", "g.pt2", "--arch", "a:b", "--num-images", "10"]
SIZED = ["--size", "8"]
HANDED_ON: dict[str, list[tuple[list[str], dict[str, tuple[str | None, str, Any]]]]] = {
    "eval": [
        (["a.npz", *SIZED], IMAGES | COMPUTING | MORE_COMPUTING | MEASUREMENT),
        (
            ["a.npz"],
            {
                "--audit": (None, "evaluator.audit", True),
                "--spectra": (None, "evaluator.spectra", True),
                "--no-stderr": (None, "evaluator.stderr", False),
            },
        ),
        (GEN, MODEL),
    ],
    "check": [
        (["a.npz", *SIZED, "--max", "fd=3"], IMAGES | COMPUTING | MORE_COMPUTING | MEASUREMENT),
        ([*GEN, "--max", "fd=3"], MODEL),
        (["r.json", "--max", "fd=3", "--baseline", "b.json"], GATE),
    ],
    "compare": [
        (["a.npz", "other.npz", *SIZED], IMAGES | COMPUTING | MORE_COMPUTING | MEASUREMENT),
        (["a.npz", *GEN], MODEL),
    ],
    "audit": [(["a.npz", "--ref", "a.npz", *SIZED], IMAGES | COMPUTING | AUDIT)],
    "cas": [(["a.npz", "--real", "a.npz", "--val", "a.npz", "-o", "run"], CAS)],
    "explain": [
        (["a.npz", *SIZED], IMAGES | COMPUTING | EXPLAIN),
        (GEN, MODEL | {"--prompts": MEASUREMENT["--prompts"]}),
    ],
    "panel": [
        (["--model", "m=*.npz", *SIZED], IMAGES | COMPUTING | MORE_COMPUTING | MEASUREMENT),
    ],
    "stats": [
        (["a.npz", "-o", "out.h5", *SIZED], IMAGES | COMPUTING | MORE_COMPUTING | STATS),
        (["a.npz", "-o", "out"], {"--format": ("npz", "written.file_format", "npz")}),
        (["a.npz", "-o", "o.npz", "--format", "adm"], {"--num-images": ("4", "written.subset.options.count", 4)}),
    ],
    "ifid": [
        (["--vae", "haar", "--images", "a.npz", *SIZED], IMAGES | COMPUTING | AUTOENCODER | IFID),
    ],
    "recon": [
        (["--vae", "haar", "--images", "a.npz", *SIZED], IMAGES | COMPUTING | RECON),
        (["--vae", "haar", "--images", "a.npz"], {"--protocol": ("imagenet-val-256-adm", "images.crop", "adm")}),
    ],
    "sample": [(["--gen", "g.pt2", "--arch", "a:b", "-o", "out.npz", "-n", "10"], MODEL | SAMPLED)],
    "train": [
        (TRAIN, TRAINED | RUN),
        ([*TRAIN, "--solver", "local"], {"--rho": ("0.5", "train.local_rho", 0.5)}),
    ],
    "convert": [(["s.npz", "t.npz"], CONVERT)],
    "correlate": [(["t.csv", "--x", "a", "--y", "b"], CORRELATE)],
    "weights fetch": [(["inception"], FETCH)],
    "references fetch": [
        (["imagenet256"], FETCH | {"--reps": ("inception", "fetch.chosen.0.encoders", ("inception",))}),
    ],
    "cache list": [([], STORE)],
    "cache verify": [([], STORE)],
    "cache remove": [(["x"], STORE)],
}
for _bases in (
    HANDED_ON[name]
    for name in (
        "eval",
        "check",
        "compare",
        "explain",
        "audit",
        "panel",
        "stats",
        "ifid",
        "recon",
        "sample",
        "train",
    )
):
    _bases[0][1].update(GPUS)
