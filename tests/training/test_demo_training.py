"""`fdr demo --train` in small: what it prints is what others measure in what it leaves, and it says when it failed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import fdr
from fdr.cli import run
from fdr.errors import RunError
from fdr.images import grid_of, procedural
from fdr.reports import load_reports
from fdr.runtime import SilentProgress
from fdr.training import PIXELS, SIDE, TRAINED, WATCHED, run_training_demo
from fdr.training import demo as demo_training
from fdr.training.demo import TrainingSettings
from fdr.training.demo_generator import Decoder, Pixels, Pretraining, _bound, _Encoder, pixels, pretrain

pytestmark = pytest.mark.filterwarnings("ignore::fdr.errors.FdrWarning")  # so few images are doubtful

TINY = TrainingSettings(
    train_count=128,
    held_out_count=128,
    sample_count=64,
    pretraining=Pretraining(steps=20, batch_size=16),
    steps=12,
    batch_size=32,
    lr=1e-3,
    population="ema:0.5",
    least_factor=1.0,
)


def drawn(seed: int, count: int) -> np.ndarray:
    return np.stack([procedural.draw(seed, index, SIDE) for index in range(count)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "out"


@pytest.fixture(scope="module")
def demo(folder: Path) -> demo_training.TrainingDemo:
    return run_training_demo(folder, TINY)


def test_even_in_small_the_trained_encoder_and_its_sibling_see_an_improvement(demo) -> None:
    assert demo.factor(TRAINED) > 1.1 and demo.factor("random:1") > 1.1


def test_training_reference_measured_images_and_noise_are_apart(demo, folder: Path) -> None:
    seen, held_out, validation = (
        np.load(folder / f"{name}.npz")["arr_0"] for name in ("train", "held-out", "validation")
    )
    known = {image.tobytes() for image in seen}
    assert not any(image.tobytes() in known for image in (*held_out, *validation))
    assert json.loads((folder / "run" / "train.json").read_text())["options"]["reference"] == str(folder / "train")


def test_the_numbers_are_those_of_fdr_eval_on_the_run_folder(demo, folder: Path, tmp_path: Path) -> None:
    names = (TRAINED, *WATCHED)
    command = ["eval", "--gen", folder / "run", "--ref", folder / "held-out", "--reps", ",".join(names)]
    command += ["--num-images", TINY.sample_count, "--seed", demo_training.EVALUATION_SEED, "--device", "cpu"]
    assert run([*map(str, command), "-q", "--no-cache", "--json", str(tmp_path / "r.json")]) == 0
    (report,) = load_reports(tmp_path / "r.json")
    for name in names:
        assert report["fd", name].value == pytest.approx(demo.after["fd", name].value, rel=1e-5)


def test_pixels_fd_is_that_of_averaged_bytes_in_numpy(demo, folder: Path) -> None:
    """An independent path: generator -> uint8 -> cells by reshaping -> float64 moments -> FD by eigenvalues."""
    from fdr.generators import noise_of

    weak = fdr.load_generator(folder / "pretrained.safetensors", "fdr.training.demo_generator:Decoder", "cpu")
    with torch.no_grad():
        images = weak(noise_of(demo_training.EVALUATION_SEED, range(TINY.sample_count), weak.noise_shape, weak.device))
    made = np.round(images.permute(0, 2, 3, 1).numpy() * 255)

    def cells(bytes_: np.ndarray) -> np.ndarray:
        return (bytes_.astype(np.float64) / 255).reshape(len(bytes_), 8, 4, 8, 4, 3).mean((2, 4)).reshape(-1, 192)

    a, b = cells(made), cells(np.load(folder / "held-out.npz")["arr_0"])
    roots = np.linalg.eigvals(np.cov(a.T) @ np.cov(b.T)).real.clip(0)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(np.cov(a.T) + np.cov(b.T)) - 2 * np.sqrt(roots).sum()
    assert demo.before["fd", PIXELS].value == pytest.approx(expected, rel=1e-4)


def test_grids_are_before_after_and_held_out_images(demo, folder: Path) -> None:
    whole = np.asarray(Image.open(folder / "before-after.png"))[::2, ::2]
    before, after = (np.asarray(Image.open(folder / "run" / "grids" / f"step-{step:08d}.png")) for step in (0, 12))
    width = before.shape[1]
    np.testing.assert_array_equal(whole[:, :width], before)
    np.testing.assert_array_equal(whole[:, width + 8 : 2 * width + 8], after)
    np.testing.assert_array_equal(whole[:, -width:], grid_of(drawn(1, 64)))
    assert np.abs(before.astype(float) - after).mean() > 1


def test_a_second_call_trains_nothing_again_and_says_the_same(demo, folder: Path) -> None:
    files = (folder / "pretrained.safetensors", folder / "run" / "checkpoints" / "step-00000012.pt")
    times = [path.stat().st_mtime_ns for path in files]
    again = run_training_demo(folder, TINY)
    assert [path.stat().st_mtime_ns for path in files] == times
    assert [r.value for r in again.after] == [r.value for r in demo.after]


def test_the_run_goes_on_with_fdr_train(demo, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "--resume", str(folder / "run")]) == 0
    assert "has finished already" in capsys.readouterr().out


def test_a_demo_whose_fd_does_not_fall_says_so(demo) -> None:
    with pytest.raises(RunError, match=r"FD of random went from [\d.]+ to [\d.]+; .* more than a factor of 1000"):
        dataclasses.replace(demo, settings=dataclasses.replace(TINY, least_factor=1000)).check()
    with pytest.raises(RunError, match="should have fallen by more than a factor of 1: "):
        dataclasses.replace(demo, after=demo.before).check()
    better = [dataclasses.replace(result, value=result.value / 2) for result in demo.before]
    fallen = dataclasses.replace(demo.before, results=tuple(better))
    dataclasses.replace(demo, after=fallen).check()
    worse = [dataclasses.replace(r, value=r.value * 3) if r.encoder == PIXELS else r for r in better]
    with pytest.raises(RunError, match="The FD of pixels went from"):
        dataclasses.replace(demo, after=dataclasses.replace(fallen, results=tuple(worse))).check()


def test_the_command(demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    failing = dataclasses.replace(demo, settings=dataclasses.replace(TINY, least_factor=1000))

    def drawn_before(folder: Path, view: object) -> demo_training.TrainingDemo:
        folder.mkdir(exist_ok=True)
        (folder / demo_training.HELD_OUT_SET).touch()
        return failing

    monkeypatch.setattr("fdr.training.run_training_demo", drawn_before)
    monkeypatch.chdir(tmp_path)
    assert run(["demo", "--train", "-q"]) == 1
    shown = capsys.readouterr()
    assert "should have fallen" in shown.err
    for text in ("random:1", "watched", "trained on", "128 drawn images", "--ref fdr-demo-train/held-out --reps"):
        assert text in shown.out
    kept = [report.to_json() for report in load_reports(tmp_path / "fdr-demo-train" / "demo.json")]
    assert kept == [demo.before.to_json(), demo.after.to_json()]
    assert run(["demo", "--train", "-q", "--json", "-"]) == 1
    assert len(json.loads(capsys.readouterr().out)["reports"]) == 2
    assert run(["demo", "-q", "--out", "fdr-demo-train"]) == 2
    assert "not from an earlier demo" in capsys.readouterr().err


def test_the_page_states_the_sizes_of_the_demo() -> None:
    page = " ".join((Path(__file__).parents[2] / "docs" / "training.md").read_text().split())
    settings, size = TrainingSettings(), sum(parameter.numel() for parameter in Decoder().parameters())
    for sentence in (
        f"draws {settings.train_count:,} images of {SIDE} px to train on",
        f"a one-step generator of {size:,} parameters for {settings.pretraining.steps} steps",
        f"post-trains it for {settings.steps} steps with the FD of the encoder `{TRAINED}`",
        f"{settings.sample_count:,} samples, rounded to bytes, against",
        f"the moments of {settings.held_out_count:,} images",
        f"falls by less than a factor of {settings.least_factor:g}",
    ):
        assert sentence in page
    assert {"train_count", "pretraining", "steps", "sample_count", "held_out_count", "least_factor"} | {
        "batch_size", "lr", "population",
    } == {field.name for field in dataclasses.fields(settings)}  # fmt: skip


def test_the_pretraining_loss_is_the_variational_bound() -> None:
    """Kingma and Welling 2013, equation 7: squared error plus the divergence from a normal distribution."""
    torch.manual_seed(0)
    encoder, decoder = _Encoder(), Decoder()
    images, noise = torch.rand(5, 3, SIDE, SIDE), torch.randn(5, LENGTH)
    mean, log_variance = encoder(images)
    posterior = torch.distributions.Normal(mean, log_variance.exp().sqrt())
    divergence = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0, 1)).sum(1)
    made = decoder(torch.cat([mean + posterior.stddev * noise[:, :64], noise[:, 64:]], 1))
    error = ((made - images) ** 2).flatten(1).sum(1)
    for weight in (0.0, 0.5, 3.0):
        expected = (error + weight * divergence).mean()
        torch.testing.assert_close(_bound(encoder, decoder, images, noise, weight), expected)


def test_pretraining_is_the_same_every_time_and_learns() -> None:
    images, device = drawn(0, 128), torch.device("cpu")
    state = torch.get_rng_state()
    one, two = (pretrain(images, Pretraining(steps=6, batch_size=16), device, SilentProgress()) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    torch.manual_seed(0)
    fresh, real = Decoder()(torch.randn(64, LENGTH)), torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    longer = pretrain(images, Pretraining(steps=30, batch_size=32), device, SilentProgress())
    trained = longer(torch.randn(64, LENGTH))
    spread = [x.mean((2, 3)).std().item() for x in (fresh, trained, real)]
    assert spread[0] < spread[1] < spread[2]


LENGTH = Decoder().noise_shape[0]


def test_grain_of_any_layer_has_unit_variance_and_changes_the_image() -> None:
    decoder, noise = Decoder(), torch.randn(4, LENGTH, generator=torch.Generator().manual_seed(0))
    assert decoder(noise).shape == (4, 3, SIDE, SIDE)
    other = torch.cat([noise[:, :64], noise[:, 64:].flip(1)], 1)
    torch.testing.assert_close(decoder(noise), decoder(other))  # grain starts at 0
    for weight in decoder.grain:
        with torch.no_grad():
            weight.fill_(0.3)
        assert (decoder(noise) - decoder(other)).abs().max() > 1e-3
        with torch.no_grad():
            weight.zero_()


def test_pixels_are_mean_colours_of_cells_at_any_size() -> None:
    images = torch.rand(2, 3, 64, 64)
    expected = images.unflatten(3, (8, 8)).unflatten(2, (8, 8)).mean((3, 5)).flatten(1)
    torch.testing.assert_close(Pixels()(images), expected)
    assert isinstance(pixels(), Pixels) and fdr.load_encoder(PIXELS)(images)["features"].shape == (2, 192)
