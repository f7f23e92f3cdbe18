"""CAS and NAS: networks, recipes, batches, resumption, the report and the command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fdr.errors import InputError
from fdr.images import open_images
from fdr.runtime import SilentProgress
from fdr.training import RECIPES, CasOptions, CasSets, cas_scores, find_recipe, plan_cas
from fdr.training.classifiers.networks import SmallResNet, build_network
from fdr.training.classifiers.pixels import Batches, Pixels, augmented, central

TINY = replace(RECIPES["tiny"], steps=12, batch_size=16)
NUM_CLASSES = 3


def coloured(path: Path, count: int, seed: int, left_out: tuple[int, ...] = (), side: int = 8) -> Path:
    """Noisy images whose class is the channel that is bright."""
    random = np.random.default_rng(seed)
    kept = [c for c in range(NUM_CLASSES) if c not in left_out]
    labels = np.array(kept)[np.arange(count) % len(kept)]
    images = random.integers(0, 120, (count, side, side, 3))
    images[np.arange(count), :, :, labels] += 120
    np.savez(path, arr_0=images.astype(np.uint8), arr_1=labels)
    return path


@pytest.fixture
def sets(tmp_path: Path) -> CasSets:
    return CasSets(
        *(open_images(coloured(tmp_path / f"{name}.npz", n, seed)) for seed, (name, n) in enumerate(
            (("samples", 48), ("real", 45), ("val", 30))))
    )  # fmt: skip


def options(**more: Any) -> CasOptions:
    return CasOptions(**{"recipe": TINY, "device": "cpu", **more})


# Networks and recipes


def test_resnet_56_has_the_size_of_the_paper() -> None:
    assert sum(p.numel() for p in SmallResNet(56, 10).parameters()) == 853_018  # "0.85 M", He et al. 2016, table 6
    assert sum(p.numel() for p in SmallResNet(20, 10).parameters()) == 269_722  # "0.27 M"
    with pytest.raises(InputError, match="layers; got 10"):
        SmallResNet(10, 10)


def test_the_layers_are_those_of_the_paper() -> None:
    network = SmallResNet(8, 4)
    seen = []
    for block in network.blocks:
        block.register_forward_hook(lambda _, __, out: seen.append(tuple(out.shape[1:])))
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 4)
    assert seen == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]
    assert sum(isinstance(m, torch.nn.Conv2d | torch.nn.Linear) for m in network.modules()) == 8


def test_initial_weights_depend_on_the_seed_and_leave_the_global_one_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, again, other = (build_network("resnet-8", 3, seed).conv.weight for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_recipes_are_those_of_their_papers() -> None:
    cifar, imagenet = RECIPES["cifar"], RECIPES["imagenet"]
    assert [cifar.lr_at(step) for step in (0, 31_999, 32_000, 47_999, 48_000)] == pytest.approx(
        [0.1, 0.1, 0.01, 0.01, 0.001]
    )
    assert (cifar.network, cifar.steps, cifar.batch_size, cifar.weight_decay) == ("resnet-56", 64_000, 128, 1e-4)
    assert (imagenet.network, imagenet.batch_size, imagenet.input_size) == ("resnet50", 256, 224)
    assert find_recipe("cifar").with_steps(10).lr_at(5) == pytest.approx(0.01)
    with pytest.raises(InputError, match="did you mean 'cifar'"):
        find_recipe("cifer")
    with pytest.raises(InputError, match="must be at least 1"):
        cifar.with_steps(0)


# Batches


def pixels(count: int, seed: int = 0, side: int = 6) -> Pixels:
    random = np.random.default_rng(seed)
    return Pixels(random.integers(0, 256, (count, side, side, 3)).astype(np.uint8), np.arange(count))


def test_every_image_is_drawn_once_an_epoch_and_a_step_alone_decides_its_batch() -> None:
    recipe = replace(TINY, padding=0, batch_size=4)
    batches = Batches([pixels(6), pixels(4, 1)], recipe, seed=3)
    drawn = [batches._rows(step) for step in range(5)]
    assert sorted(row for rows in drawn for row in rows) == sorted([*range(10)] * 2)
    assert Batches([pixels(6), pixels(4, 1)], recipe, seed=3)._rows(4) == drawn[4]
    assert Batches([pixels(6), pixels(4, 1)], recipe, seed=4)._rows(4) != drawn[4]
    x, y = batches.batch(2)
    both = np.concatenate([pixels(6).images, pixels(4, 1).images])
    scaled = (torch.from_numpy(both[drawn[2]]).permute(0, 3, 1, 2).float() / 255 - batches.mean) / batches.scale
    torch.testing.assert_close(x, scaled)
    assert y.tolist() == [row if row < 6 else row - 6 for row in drawn[2]]


def test_the_statistics_are_those_of_the_training_set() -> None:
    batches = Batches([pixels(20)], TINY, seed=0)
    x = pixels(20).images / 255
    np.testing.assert_allclose(batches.mean.flatten(), x.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(batches.scale.flatten(), x.std((0, 1, 2)), rtol=1e-5)


def test_augmentation_crops_and_flips_by_the_recipe() -> None:
    image = torch.arange(3 * 36.0).reshape(3, 6, 6) + 1
    assert torch.equal(augmented(image, replace(TINY, padding=0), np.random.default_rng(0)), image)
    flipped = {
        torch.equal(augmented(image, replace(TINY, padding=0, flips=True), np.random.default_rng(s)), image.flip(2))
        for s in range(9)
    }
    assert flipped == {True, False}
    shifted = [augmented(image, TINY, np.random.default_rng(seed)) for seed in range(20)]
    assert {tuple(one.shape) for one in shifted} == {(3, 6, 6)} and any((one == 0).any() for one in shifted)
    large = replace(RECIPES["imagenet"], input_size=4, flips=False)
    assert augmented(image, large, np.random.default_rng(1)).shape == (3, 4, 4)
    assert torch.equal(central(image[None], 2)[0], image[:, 2:4, 2:4])


# The protocol


def test_the_report_has_cas_nas_and_what_real_images_give(sets: CasSets, tmp_path: Path) -> None:
    report = cas_scores(sets, tmp_path / "run", options())
    classifiers = report["classifiers"]
    assert list(classifiers) == ["samples", "real", "both"]
    assert [one["train_count"] for one in classifiers.values()] == [48, 45, 93]
    assert report["cas"] == classifiers["samples"]["top1"] > 0.8 and report["nas"] == classifiers["both"]["top1"]
    for one in classifiers.values():
        assert one["top1"] == pytest.approx(np.mean([row["top1"] for row in one["classes"].values()]))
        assert one["top1_stderr"] == pytest.approx(np.sqrt(one["top1"] * (1 - one["top1"]) / 30)) and "top5" not in one
    first = report["differences"][0]
    assert (first["of"], first["minus"]) == ("samples", "real")
    assert first["top1"] == pytest.approx(report["cas"] - classifiers["real"]["top1"])
    assert report["recipe"]["steps"] == 12 and report["validation"]["count"] == 30
    assert report["signature"].startswith("cas|recipe:tiny@") and json.loads(json.dumps(report)) == report


def test_a_class_that_the_samples_lack_has_accuracy_0(sets: CasSets, tmp_path: Path) -> None:
    without = replace(sets, samples=open_images(coloured(tmp_path / "w.npz", 48, 9, left_out=(1,))))
    report = cas_scores(without, tmp_path / "run", options(train_on=("samples",)))
    assert report["classifiers"]["samples"]["classes"]["1"] == {"top1": 0.0, "n": 10}
    assert report["notes"] == ["the samples lack 1 classes, whose accuracy is 0: 1"]
    assert report["nas"] is None and report["differences"] == []


def test_class_folders_match_by_name(tmp_path: Path, sets: CasSets) -> None:
    for index in range(12):
        place = tmp_path / "named" / "102"[index % 3] / f"{index}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        colour = np.zeros((8, 8, 3), np.uint8)
        colour[:, :, int("102"[index % 3])] = 200
        Image.fromarray(colour).save(place)
    named = replace(sets, samples=open_images(tmp_path / "named"))
    report = cas_scores(named, tmp_path / "run", options(train_on=("samples",)))
    assert report["classes"] == ["0", "1", "2"] and report["cas"] > 0.8


class Interrupted(SilentProgress):
    """Ends the run after three steps on real images, as a kill does between two checkpoints."""

    def __init__(self) -> None:
        self.title, self.steps = "", 0

    def task(self, title: str, total: float | None, unit: str = "images") -> SilentProgress:
        self.title, self.steps = title, 0
        return self

    def advance(self, amount: float = 1) -> None:
        self.steps += 1
        if self.title == "trained on real" and self.steps == 3:
            raise KeyboardInterrupt


def test_a_killed_run_resumes_with_the_same_bits(
    sets: CasSets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = options(recipe=replace(TINY, steps=5), train_on=("samples", "real"))
    monkeypatch.setattr("fdr.training.classifiers.fitting.SAVE_INTERVAL", -1.0)
    with pytest.raises(KeyboardInterrupt):
        cas_scores(sets, tmp_path / "killed", replace(chosen, progress=Interrupted()))
    assert torch.load(tmp_path / "killed" / "real.pt", weights_only=True)["step"] == 3
    resumed = cas_scores(sets, tmp_path / "killed", chosen)
    whole = cas_scores(sets, tmp_path / "whole", chosen)
    assert resumed == whole
    for name in ("samples", "real"):
        one, other = (torch.load(tmp_path / run / f"{name}.pt", weights_only=True) for run in ("killed", "whole"))
        assert one["step"] == other["step"] == 5
        assert all(torch.equal(tensor, other["model"][key]) for key, tensor in one["model"].items())


def test_a_finished_run_is_not_trained_again_and_other_options_are_refused(
    sets: CasSets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = options(train_on=("real",))
    first = cas_scores(sets, tmp_path / "run", chosen)
    monkeypatch.setattr("fdr.training.classifiers.fitting._step", lambda *_: pytest.fail("trained again"))
    assert cas_scores(sets, tmp_path / "run", chosen) == first
    for other, named in ((options(seed=1), "seed"), (options(recipe=replace(TINY, steps=13)), "recipe")):
        with pytest.raises(InputError, match=f"classifiers of other options: {named} changed"):
            cas_scores(sets, tmp_path / "run", other)
    moved = replace(sets, samples=open_images(coloured(tmp_path / "new.npz", 48, 5)))
    with pytest.raises(InputError, match="samples changed"):
        cas_scores(moved, tmp_path / "run", chosen)


def test_sets_that_do_not_fit(sets: CasSets, tmp_path: Path) -> None:
    bare = open_images(np.zeros((4, 8, 8, 3), np.uint8))
    large = open_images(coloured(tmp_path / "x.npz", 9, 0, side=10))
    for changed, sentence in (
        (replace(sets, samples=bare), "needs the class of every sample"),
        (replace(sets, real=large), "images of one size; they have"),
        (replace(sets, validation=open_images(shifted(tmp_path / "y.npz"))), "No class of the samples"),
    ):
        with pytest.raises(InputError, match=sentence):
            cas_scores(changed, tmp_path / "run" / sentence[:5], options())


def shifted(path: Path) -> Path:
    with np.load(coloured(path, 9, 0)) as file:
        arrays = dict(file)
    np.savez(path, arr_0=arrays["arr_0"], arr_1=arrays["arr_1"] + 7)
    return path


def test_a_recipe_says_which_size_it_takes(sets: CasSets, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cifar takes images of 32 x 32 pixels, and these have 8 x 8"):
        cas_scores(sets, tmp_path / "run", options(recipe=RECIPES["cifar"]))


def test_a_folder_of_other_things_is_left_alone(sets: CasSets, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match="is not empty and holds no run of fdr cas"):
        cas_scores(sets, tmp_path / "run", options())
    with pytest.raises(InputError, match="trained on samples, real, both; got fake"):
        options(train_on=("fake",))


def test_a_plan_computes_nothing(sets: CasSets, tmp_path: Path) -> None:
    lines = list(plan_cas(sets, tmp_path / "run", options()))
    assert "resnet-8, 12 steps of 16 images" in lines[0] and "3 classes" in lines[0]
    assert not (tmp_path / "run").exists()
