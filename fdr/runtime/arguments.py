"""Names that other tools use for the same options and commands, and the error that suggests the right argument."""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import ParamSpec, TypeVar

from fdr.errors import InputError

P = ParamSpec("P")
R = TypeVar("R")

SYNONYMS = tuple(
    frozenset(line.split())
    for line in (
        "samples fake fakes fake_path generated gen_images input input1 images path sample_path",
        "reference ref real reals real_path ref_path gt target input2 ref_images reference_path dataset stats",
        "reps encoders encoder model models feature_extractor extractor backbone net feature_model detector judge",
        "metrics metric measures scores",
        "count num_images num_samples nsample nsamples num n limit max_samples num_gen n_samples samples_count",
        "gen path ckpt checkpoint network generator model_path network_pkl pretrained resume",
        "json_path out output output_path outdir save out_dir result result_path outfile dest save_path",
        "device gpu gpus cuda cpu no_cuda use_cuda gpu_id",
        "batch_size bs batch batchsize",
        "num_workers workers j num_threads threads n_jobs",
        "size resolution res img_size image_size resize",
        "cache cache_root cache_dir datasets_cache",
        "weights_dir model_dir models_dir weights_path hub_dir",
        "quiet silent no_verbose q",
        "lr learning_rate base_lr",
        "steps max_steps num_steps iters iterations num_iterations total_steps",
        "weight_decay wd",
        "seed random_seed rng_seed manual_seed",
        "labels classes class_labels",
        "arch architecture network_class",
        "autoencoder vae ae tokenizer",
        "neighbours neighbors",
        "dry_run check_only plan",
    )
)
"""Each row holds the words for one thing, including the name that fdr uses."""
COMMANDS = {
    "eval": "evaluate evaluation fid score scores calc calculate measure metrics test compute pytorch-fid fidelity",
    "sample": "generate gen samples",
    "stats": "reference ref save-stats make-stats precompute statistics",
    "train": "finetune fine-tune post-train posttrain",
    "check": "gate assert verify ci",
    "compare": "diff",
    "show": "info inspect print cat",
    "references": "refs",
    "encoders": "models list list-encoders",
    "weights": "download fetch",
    "env": "version info-env doctor",
}
"""Words that people type instead of the names of our commands."""
_OPTIONS = {"image_options": "ImageOptions", "encoder_options": "EncoderOptions", "ifid_options": "IfidOptions"}


def synonyms(word: str, names: Iterable[str]) -> list[str]:
    """The members of `names` that other tools call `word`."""
    given = word.replace("-", "_").lower()
    return [name for name in names if any(given in row and name in row for row in SYNONYMS)]


def named_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """Wrap `function` so that an unknown keyword argument raises an error with the right name."""
    names = inspect.signature(function).parameters

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        for name in kwargs:
            if name not in names:
                raise UnknownArgument(_answer(function.__qualname__.removesuffix(".__init__"), name, list(names)))
        return function(*args, **kwargs)

    return checked


class UnknownArgument(InputError, TypeError):
    """An argument that a function does not have."""


def _answer(function: str, name: str, names: list[str]) -> str:
    start = f"{function} has no argument {name!r}; "
    meant = next(iter(synonyms(name, names)), None)
    for options, kind in _OPTIONS.items() if meant is None else ():
        known = [item.name for item in fields(getattr(importlib.import_module("fdr"), kind))]
        inner = name if name in known else next(iter(synonyms(name, known)), None)
        if options in names and inner is not None:
            return start + f"write {options}=fdr.{kind}({inner}=...)."
    meant = meant or next(iter(difflib.get_close_matches(name, names, n=1)), None)
    others = ", ".join(other for other in names if other != "self")
    return start + (f"it has {others}." if meant is None else f"did you mean {meant!r}?")
