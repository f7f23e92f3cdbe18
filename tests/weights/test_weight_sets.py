"""One rule for the weights that are measured, whatever a trainer calls them; and checkpoints with foreign objects."""

from __future__ import annotations

import argparse
import collections
import datetime
import json
import os
import pathlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from generator_worlds import Plain, seeded
from safetensors.torch import save_file
from torch import Tensor, nn

import fdr
from fdr.errors import FdrWarning, InputError, WeightsError
from fdr.generators import GeneratorSource
from fdr.weights.inert_objects import class_of
from fdr.weights.weight_sets import weight_sets

State = dict[str, Tensor]
TRAINED: State = seeded(seed=0).state_dict()
AVERAGE: State = seeded(seed=1).state_dict()
OTHER: State = {"layer.weight": torch.ones(3, 3)}
OPTIMIZER = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 1e-4, "params": [0]}]}


def under(prefix: str, state: State) -> State:
    return {f"{prefix}{name}": value for name, value in state.items()}


def dotless(prefix: str, state: State) -> State:
    return {prefix + name.replace(".", ""): value for name, value in state.items()}


def shadow(state: State) -> dict[str, Any]:
    return {"decay": 0.9, "num_updates": 3, "shadow_params": list(state.values()), "collected_params": None}


def load(path: Path, ema: str | None = None) -> fdr.generators.base.Generator:
    return fdr.load_generator(path, "generator_worlds:Plain", ema=ema)


def is_state(generator: nn.Module, state: State) -> bool:
    return all(torch.equal(value, state[name]) for name, value in generator.network.state_dict().items())  # type: ignore[union-attr, operator]


HELD = {
    "ema": {"model": TRAINED, "ema": AVERAGE, "opt": OPTIMIZER, "epoch": 3},
    "DiT": {"model": TRAINED, "ema": AVERAGE, "opt": OPTIMIZER, "args": argparse.Namespace(lr=1e-4, out=Path("x"))},
    "unknown key": {"denoiser": TRAINED, "ema": AVERAGE, "loss_module": OTHER},
    "timm": {"epoch": 3, "arch": "x", "state_dict": TRAINED, "optimizer": OPTIMIZER, "state_dict_ema": AVERAGE},
    "StyleGAN": {"d": OTHER, "g": TRAINED, "g_ema": AVERAGE, "g_optim": OPTIMIZER},
    "BasicSR": {"params": TRAINED, "params_ema": AVERAGE},
    "upper case": {"netD": OTHER, "netG": TRAINED, "netG_EMA": AVERAGE},
    "ema_state_dict": {"model_state_dict": TRAINED, "ema_state_dict": AVERAGE},
    "torch-ema": {"model": TRAINED, "ema": shadow(AVERAGE), "rng": [torch.zeros(9, dtype=torch.uint8)]},
    "shadow": {"net": TRAINED, "ema": {"decay": 0.9, "shadow": AVERAGE}},
    "shadows": {"model": TRAINED, "model_ema": {"shadows": {"edm_250": AVERAGE, "edm_500": TRAINED}}},
    "decays": {"model": TRAINED, "ema": {"0.999": AVERAGE, "0.9999": TRAINED}},
    "ema-pytorch": {
        "model": TRAINED,
        "ema": {"initted": torch.tensor(True), "step": torch.tensor(3)}
        | under("online_model.", TRAINED)
        | under("ema_model.", AVERAGE),
    },
    "ema-pytorch alone": {"initted": torch.tensor(True), "step": torch.tensor(3)}
    | under("online_model.", TRAINED)
    | under("ema_model.", AVERAGE),
    "Lightning": {"state_dict": under("model.", TRAINED) | under("ema_model.", AVERAGE), "hyper_parameters": {"a": 1}},
    "Lightning, a loss beside": {
        "state_dict": under("net.", TRAINED) | under("net_ema.", AVERAGE) | under("lpips.", OTHER)
    },
    "LDM": {
        "state_dict": under("model.diffusion_model.", TRAINED)
        | dotless("model_ema.diffusion_model", AVERAGE)
        | under("first_stage_model.", OTHER)
        | {"model_ema.decay": torch.tensor(0.9), "model_ema.num_updates": torch.tensor(3), "betas": torch.ones(4)}
    },
    "callback": {
        "state_dict": under("model.", TRAINED),
        "callbacks": {"EMA": {"ema_state_dict": under("model.", AVERAGE), "decay": 0.9}},
    },
    "Lightning's WeightAveraging": {
        "current_model_state": under("model.", TRAINED),
        "state_dict": under("model.", AVERAGE),
        "averaging_state": {"n_averaged": torch.tensor(3)},
    },
    "AveragedModel": {"model": TRAINED, "swa_model": {"n_averaged": torch.tensor(3)} | under("module.", AVERAGE)},
    "list": {"model": TRAINED, "ema": [AVERAGE, TRAINED], "rng": [torch.zeros(9, dtype=torch.uint8)]},
    "container in a container": {"state": {"G": TRAINED, "D": OTHER, "G_ema": AVERAGE, "step": 3}, "opt": OPTIMIZER},
    "Lightning, an AveragedModel": {
        "state_dict": under("model.", TRAINED) | under("ema.module.", AVERAGE) | {"ema.n_averaged": torch.tensor(3)}
    },
    "compiled and DDP": {
        "model": under("module._orig_mod.", TRAINED),
        "ema": {name.replace(".", "._orig_mod.", 1): value for name, value in AVERAGE.items()},
    },
}


@pytest.mark.parametrize("name", HELD)
def test_the_average_is_measured_and_the_trained_weights_when_asked_for(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.pt"
    torch.save(HELD[name], path)
    with pytest.warns(
        FdrWarning, match=r"holds the trained weights and the averages? .*; measured: .*ema='none' the trained"
    ):
        average = load(path)
    assert is_state(average, AVERAGE)
    assert average.weights.label in average.weights.held[1:]
    assert is_state(load(path, average.weights.label), AVERAGE)
    for label in ("none", "online"):
        trained = load(path, label)
        assert is_state(trained, TRAINED) and trained.weights.label == "online"
    with pytest.raises(InputError, match=r"Unknown weights in .* 'medium'; "):
        load(path, "medium")


@pytest.mark.parametrize(
    "held",
    [
        TRAINED,
        under("module.", TRAINED),
        {"module": TRAINED, "optimizer": OPTIMIZER, "ds_version": "0.1"},
        {"model": collections.defaultdict(list, TRAINED), "best": np.float64(3.2), "array": np.ones(3)},
        {
            "model": TRAINED,
            "dir": pathlib.PurePosixPath("/x"),
            "at": datetime.datetime(2026, 1, 1),
            "loss": torch.ones(2),
        },
        {"n_averaged": torch.tensor(3)} | under("module.", TRAINED),
        under("ema_model.", TRAINED),
        {**TRAINED, "epoch": 3},
        {"model": {"net": TRAINED}},
        {
            "model": {
                part: {"weight": TRAINED[f"{part}.weight"], "bias": TRAINED[f"{part}.bias"]}
                for part in ("first", "last")
            }
        },
    ],
    ids=[
        "bare",
        "DDP",
        "DeepSpeed",
        "defaultdict and numpy",
        "path and date",
        "AveragedModel",
        "one average",
        "number",
        "part",
        "parts",
    ],
)
def test_one_set_is_taken_without_a_word(tmp_path: Path, held: Any, recwarn: pytest.WarningsRecorder) -> None:
    torch.save(held, tmp_path / "a.pt")
    assert is_state(load(tmp_path / "a.pt"), TRAINED)
    assert not [item for item in recwarn if issubclass(item.category, FdrWarning)]


class Normed(Plain):
    """With buffers that an average over parameters has not, and a parameter that is not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(8)
        self.fixed = nn.Parameter(torch.zeros(8), requires_grad=False)

    def forward(self, noise: Tensor) -> Tensor:
        return super().forward(self.norm(noise) + self.fixed)


@pytest.mark.parametrize("form", ["list", "names"])
def test_an_average_over_parameters_takes_its_buffers_from_the_trained_set(tmp_path: Path, form: str) -> None:
    trained, averaged = seeded(Normed), seeded(Normed, 1)
    trained.norm.running_mean += 3  # type: ignore[operator]
    learned = {name: value.detach() for name, value in averaged.named_parameters() if value.requires_grad}
    torch.save(
        {"model": trained.state_dict(), "ema": shadow(learned) if form == "list" else learned}, tmp_path / "a.pt"
    )
    with pytest.warns(FdrWarning, match="average ema of .* holds parameters only; 4 buffers .fixed, "):
        loaded = fdr.load_generator(tmp_path / "a.pt", "test_weight_sets:Normed")
    state = loaded.network.state_dict()
    assert all(torch.equal(state[name], value) for name, value in learned.items())
    assert torch.equal(state["norm.running_mean"], torch.full((8,), 3.0))
    torch.save({"model": trained.state_dict(), "ema": {**learned, "last.bias": torch.ones(2)}}, tmp_path / "b.pt")
    with pytest.raises(WeightsError, match=r"wrong shapes last.bias \(2 for 64\)"), pytest.warns(FdrWarning):
        fdr.load_generator(tmp_path / "b.pt", "test_weight_sets:Normed")


def test_a_part_of_a_network_that_is_called_ema_is_no_average() -> None:
    class Codebook(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.ema_codes = nn.Linear(2, 2)

    state = Codebook().state_dict()
    sets = weight_sets(state, state)
    assert sets.trained == {"online": state} and not sets.averages


def test_shards_and_folders(tmp_path: Path) -> None:
    names = list(TRAINED)
    files = {"model-00001-of-00002.safetensors": names[:2], "model-00002-of-00002.safetensors": names[2:]}
    for file, held in files.items():
        save_file({name: TRAINED[name] for name in held}, tmp_path / file)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {name: file for file, held in files.items() for name in held}}))
    assert is_state(load(tmp_path), TRAINED) and is_state(load(index), TRAINED)
    with pytest.raises(WeightsError, match=r"does not fit .* It is one of 2 shards; name their folder"):
        load(tmp_path / next(iter(files)))
    with pytest.raises(InputError, match="holds weights alone; name their network with arch"):
        fdr.load_generator(tmp_path)
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet_ema").mkdir()
    save_file(TRAINED, tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    save_file(AVERAGE, tmp_path / "unet_ema" / "diffusion_pytorch_model.safetensors")
    with pytest.warns(FdrWarning, match="the average unet_ema; measured: unet_ema"):
        assert is_state(load(tmp_path), AVERAGE)
    assert is_state(load(tmp_path, "unet"), TRAINED) and is_state(load(tmp_path, "none"), TRAINED)
    (tmp_path / list(files)[1]).unlink()
    with pytest.raises(WeightsError, match=r"names 2 shards, of which model-00002-of-00002.safetensors is not there"):
        load(index)
    index.write_text(json.dumps({"weight_map": {"a": "../secret.safetensors"}}))
    with pytest.raises(WeightsError, match=r"is no index of shards .*a shard in another folder"):
        load(index)
    (tmp_path / "runs").mkdir()
    for name in ("a.pt", "b.pt"):
        torch.save(TRAINED, tmp_path / "runs" / name)
    with pytest.raises(InputError, match=r"holds several weight files \(a.pt, b.pt\); name one"):
        load(tmp_path / "runs")


def test_the_report_says_which_set_was_measured(tmp_path: Path) -> None:
    torch.save(HELD["ema"], tmp_path / "a.pt")
    with pytest.warns(FdrWarning, match="measured: ema"):
        source = GeneratorSource(load(tmp_path / "a.pt"), 4)
    assert source.made_by["weights"] == "ema" and source.made_by["weights_held"] == ["online", "ema"]


def test_an_average_that_is_an_object_is_not_passed_over_in_silence(tmp_path: Path) -> None:
    torch.save(
        {"model": TRAINED, "ema": seeded(seed=1), "ema_decay": 0.9, "ema_options": {"decay": 0.9}}, tmp_path / "a.pt"
    )
    with pytest.warns(
        FdrWarning, match=r"average that cannot be read, ema \(a pickled generator_worlds.Plain\); measured"
    ):
        loaded = load(tmp_path / "a.pt")
    assert is_state(loaded, TRAINED) and "cannot be read" in loaded.weights.note


def test_a_state_that_posed_as_a_class_is_not_printed() -> None:
    held: Any = collections.OrderedDict()
    held.stands_for = [[]]
    assert class_of(held) is None
    held.stands_for = "x" * 1000
    assert class_of(held) == "x" * 100


def test_of_two_networks_that_fit_the_one_of_a_trainers_name_is_taken(tmp_path: Path) -> None:
    torch.save(under("teacher.", AVERAGE) | under("model.", TRAINED), tmp_path / "a.pt")
    assert is_state(load(tmp_path / "a.pt"), TRAINED)
    torch.save(under("teacher.", AVERAGE) | under("student.", TRAINED), tmp_path / "a.pt")
    with pytest.raises(WeightsError, match="does not fit"):
        load(tmp_path / "a.pt")


class Runs:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


class Options(dict):
    """A class of a trainer's own, which reads its items when it is made."""

    def __init__(self) -> None:
        raise AssertionError("it was made")

    def __setstate__(self, state: Any) -> None:
        raise AssertionError("it was filled")


@pytest.mark.parametrize("zipped", [True, False])
def test_no_object_of_a_checkpoint_is_made(tmp_path: Path, zipped: bool) -> None:
    path, trace = tmp_path / "a.pt", tmp_path / "ran"
    options = Options.__new__(Options)
    options["lr"] = 1
    options.name = "x"  # type: ignore[attr-defined]
    torch.save({"model": TRAINED, "config": options}, path, _use_new_zipfile_serialization=zipped)
    assert is_state(load(path), TRAINED)
    calls = ((os.mkdir, (str(trace),)), (eval, ("1 / 0",)), (getattr, (1, "real")), (open, (str(trace), "w")))
    for function, arguments in calls:
        torch.save({"model": TRAINED, "a": Runs(function, *arguments)}, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(WeightsError, match=rf"it asks for \w+\.{function.__name__}, which no weights need"):
            load(path)
    assert not trace.exists()
    torch.save(seeded(), path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match=r"(pickled generator_worlds.Plain|more than).* save its state"):
        load(path)
    path.write_bytes(pickle.dumps({"model": argparse.Namespace(a=1)}, protocol=4))
    with pytest.raises(WeightsError, match=r"save its state dict alone|truncated or damaged"):
        load(path)


def test_an_average_without_a_trained_parameter_is_not_completed(tmp_path: Path) -> None:
    lacking = {name: value for name, value in AVERAGE.items() if name != "last.bias"}
    torch.save({"model": TRAINED, "ema": lacking}, tmp_path / "a.pt")
    with pytest.raises(WeightsError, match=r"without last\.bias"), pytest.warns(FdrWarning, match="measured: ema"):
        load(tmp_path / "a.pt")


def test_a_list_of_all_parameters_names_the_untrained_ones_too(tmp_path: Path) -> None:
    trained, averaged = seeded(Normed), seeded(Normed, 1)
    averaged.fixed.data += 2  # type: ignore[operator]
    torch.save(
        {"model": trained.state_dict(), "ema": shadow({k: v.detach() for k, v in averaged.named_parameters()})},
        tmp_path / "a.pt",
    )
    with pytest.warns(FdrWarning, match="3 buffers"):
        loaded = fdr.load_generator(tmp_path / "a.pt", "test_weight_sets:Normed")
    state = loaded.network.state_dict()
    assert all(torch.equal(state[name], value) for name, value in averaged.named_parameters())


class Adapts(Normed):
    """Knows its buffers by itself."""

    def adapt_state(self, state: State) -> State:
        return {name: value for name, value in self.state_dict().items() if name not in state} | state


def test_a_network_that_adapts_names_completes_its_state_itself(tmp_path: Path) -> None:
    trained, averaged = seeded(Normed), seeded(Normed, 1)
    trained.norm.running_mean += 3  # type: ignore[operator]
    learned = {name: value.detach() for name, value in averaged.named_parameters() if value.requires_grad}
    torch.save({"model": trained.state_dict(), "ema": learned}, tmp_path / "a.pt")
    with pytest.warns(FdrWarning, match="measured: ema"):
        loaded = fdr.load_generator(tmp_path / "a.pt", "test_weight_sets:Adapts")
    assert torch.equal(loaded.network.state_dict()["norm.running_mean"], torch.zeros(8))


def test_an_index_that_names_more_than_its_shards_hold(tmp_path: Path) -> None:
    save_file(TRAINED, tmp_path / "a.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys([*TRAINED, "last.scale"], "a.safetensors")}))
    with pytest.raises(WeightsError, match=r"names last\.scale, which is in none of its shards"):
        load(index)


def test_which_file_and_which_subfolder_of_a_folder(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    """A .safetensors file comes before a pickle; hidden folders hold caches; the base of an average comes first."""
    torch.save(OTHER, tmp_path / "model.bin")
    save_file(TRAINED, tmp_path / "model.safetensors")
    (tmp_path / ".cache_ema").mkdir()
    save_file(AVERAGE, tmp_path / ".cache_ema" / "model.safetensors")
    assert is_state(load(tmp_path), TRAINED)
    assert not [item for item in recwarn if issubclass(item.category, FdrWarning)]
    parts = {"decoder": OTHER, "unet": TRAINED, "unet_ema": AVERAGE}
    for name, state in parts.items():
        (tmp_path / "parts" / name).mkdir(parents=True)
        save_file(state, tmp_path / "parts" / name / "model.safetensors")
    assert is_state(load(tmp_path / "parts", "none"), TRAINED)


SETS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "the set with the names of the average": ({"teacher": OTHER, "student": TRAINED, "ema": AVERAGE}, ["student"]),
    "a discriminator is last": ({"disc_head": OTHER, "netD": OTHER, "denoiser": TRAINED}, ["denoiser"]),
    "no set of nothing": ({"state_dict": under("ema_model.", AVERAGE)}, []),
    "no optimizer": ({"model": TRAINED, "optim": {**OPTIMIZER, "step": torch.tensor(3)}}, ["model"]),
    "a network of one tensor": ({"model": {"decay": torch.ones(3)}}, ["model"]),
    "codes that are updated by an average": ({**OTHER, "ema_codes.embed": torch.ones(2)}, ["online"]),
    "an average one level down": (under("pl.net.", TRAINED) | under("pl.ema_net.", AVERAGE), ["online"]),
}


@pytest.mark.parametrize("name", SETS)
def test_the_trained_set_that_comes_first(name: str) -> None:
    checkpoint, first = SETS[name]
    sets = weight_sets(checkpoint)
    assert list(sets.trained)[:1] == first
    assert all(sets.trained.values())
    if name == "no optimizer":
        assert sets.labels() == ["online"]
    if name == "codes that are updated by an average":
        assert sets.trained["online"].keys() == checkpoint.keys() and not sets.averages
    if name == "an average one level down":
        ((label, average),) = sets.averages.items()
        assert label == "ema_net" and all(torch.equal(average[key], AVERAGE[key]) for key in AVERAGE)


def test_a_stand_in_that_has_items_is_no_empty_object() -> None:
    held: Any = collections.OrderedDict(a=1)
    held.stands_for = "x.Y"
    assert class_of(held) is None
