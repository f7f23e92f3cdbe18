"""`fdr sample` and `fdr eval --gen` of pipelines of diffusers, of prompts, and of objects in Python."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pipeline_worlds as worlds
import pytest
from clip_worlds import tiny_clip
from PIL import Image
from worlds import images, npz

from fdr.images import CAPTION_SETS, caption_sets, select_captions

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::fdr.errors.FdrWarning"
)
FEW = ("--pipeline-args", "num_inference_steps=2", "--device", "cpu")
MEASURED = ("--ref", "real.npz", "--reps", "random", "--no-cache")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("pipelines")
    for kind in ("ddpm", "dit", "sd"):
        worlds.save(kind, place / kind)
    return place


@pytest.fixture
def place(saved: Path, tmp_path: Path) -> Path:
    """The folder of the command, with a reference, captions and the three pipelines."""
    for kind in ("ddpm", "dit", "sd"):
        (tmp_path / kind).symlink_to(saved / kind)
    npz(tmp_path / "real.npz", images(12, side=8))
    worlds.captions(tmp_path / "captions.jsonl")
    return tmp_path


def made_by(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())["samples"]["made_by"]


def test_a_folder_is_run_as_a_whole_and_with_arch_in_one_step(fdr_command: Any, place: Path) -> None:
    whole = fdr_command("eval", "--gen", "ddpm", "-n", 3, *FEW, *MEASURED, "--json", "whole.json")
    assert whole.code == 0, whole.err
    assert (
        "fdr: note: samples are made by the whole pipeline, ddpm (2 steps), DDPMPipeline with DDPMScheduler; "
        "--arch diffusers would make each image in one step." in whole.err
    )
    assert "Loading" not in whole.err and "ddpm (2 steps)" in whole.out
    once = fdr_command(
        "eval", "--gen", "ddpm", "-n", 3, "--arch", "diffusers", "--device", "cpu", *MEASURED, "--json", "once.json"
    )
    assert once.code == 0 and "whole pipeline" not in once.err and "ddpm (one step)" in once.out
    assert made_by(place / "whole.json")["arguments"] == {"num_inference_steps": 2}
    assert "pipeline" not in made_by(place / "once.json")
    quiet = fdr_command("eval", "--gen", "ddpm", "-n", 3, *FEW, *MEASURED, "-q")
    assert quiet.code == 0 and quiet.err == ""
    measured = fdr_command("sample", "--gen", "ddpm", "-n", 3, *FEW, "-o", "a.npz")
    assert measured.out.startswith(
        "a.npz: 3 samples 8 x 8 of ddpm (2 steps), DDPMPipeline with DDPMScheduler, seed 0; "
    )


def test_samples_measure_as_their_pipeline_does(fdr_command: Any, place: Path) -> None:
    shared = ("--gen", "dit", "-n", 5, "--labels", "balanced", "--seed", 2, "--batch-size", 5, "--device", "cpu")
    given = ("--pipeline-args", "num_inference_steps=2 guidance_scale=1")
    done = fdr_command("sample", *shared, *given, "-o", "a.npz", "-q")
    assert done.code == 0, done.err
    assert np.load(place / "a.npz")["arr_1"].tolist() == [0, 1, 2, 3, 4]
    measured = fdr_command("eval", *shared, *given, *MEASURED, "--json", "a.json", "-q")
    assert measured.code == 0, measured.err
    assert fdr_command("eval", "a.npz", *MEASURED, "--json", "b.json", "-q").code == 0
    values = [json.loads((place / name).read_text())["results"][0]["value"] for name in ("a.json", "b.json")]
    assert values[0] == values[1] and made_by(place / "a.json")["labels"] == "balanced"


def test_arguments_of_a_pipeline_change_its_images(fdr_command: Any, place: Path) -> None:
    call = ("sample", "--gen", "ddpm", "-n", 2, "--device", "cpu", "-q")
    for name, given in (
        ("a", "num_inference_steps=2"),
        ("b", "num_inference_steps=3"),
        ("c", "scheduler=DDIMScheduler"),
    ):
        done = fdr_command(
            *call, "--pipeline-args", "num_inference_steps=2", "--pipeline-args", given, "-o", f"{name}.npz"
        )
        if name == "b":
            assert done.code == 2 and "num_inference_steps was given two values, 2 and 3" in done.err
        else:
            assert done.code == 0, done.err
    first, other = (np.load(place / f"{name}.npz")["arr_0"] for name in "ac")
    assert (first != other).any()
    again = fdr_command(*call, "--pipeline-args", "num_inference_steps=3", "-o", "a.npz")
    assert again.code == 2 and "holds samples with arguments {'num_inference_steps': 2}; asked for was" in again.err
    assert again.err.count("\n") == 1


def test_the_captions_of_coco_are_sampled_and_measured_by_name(
    fdr_command: Any, place: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(caption_sets.CAPTION_SETS, "coco-30k", replace(CAPTION_SETS["coco-30k"], count=3, total=5))
    named = [{"id": i, "file_name": f"COCO_val2014_{i:012d}.jpg"} for i in range(5)]
    captions = [{"id": 9 * i + j, "image_id": i, "caption": f"a red dog {j}"} for i in range(5) for j in range(2)]
    (place / "c.json").write_text(json.dumps({"images": named, "annotations": captions}))
    done = fdr_command("sample", "--gen", "sd", "--prompts", "coco-30k:c.json", *FEW, "-o", "out")
    assert done.code == 0, done.err
    expected = select_captions(f"coco-30k:{place / 'c.json'}")
    assert sorted(path.stem for path in (place / "out").glob("*.png")) == expected.names
    clip = tiny_clip(tmp_path_factory.mktemp("clip"))
    shared = ("--reps", f"hf:{clip}", "--metrics", "clip_score", "--no-cache", "--prompts", "coco-30k:c.json")
    for more, name in ((["out"], "a.json"), (["--gen", "sd", *FEW], "b.json")):
        measured = fdr_command("eval", *more, *shared, "--json", name)
        assert measured.code == 0, measured.err
    values = [json.loads((place / name).read_text())["results"][0]["value"] for name in ("a.json", "b.json")]
    assert values[0] == pytest.approx(values[1], abs=1e-3)


def test_prompts_are_sampled_and_measured(fdr_command: Any, place: Path) -> None:
    shared = ("--gen", "sd", "--prompts", "captions.jsonl", *FEW)
    planned = fdr_command("sample", *shared, "-o", "out", "--dry-run")
    assert (
        "would write 4 samples of sd (2 steps), StableDiffusionPipeline with DDIMScheduler, seed 0, 4 prompts"
        in planned.out
    )
    done = fdr_command("sample", *shared, "-o", "out")
    assert done.code == 0 and done.out.startswith("out: 4 samples 8 x 8 of sd"), done.err
    names = sorted(path.relative_to(place / "out").as_posix() for path in (place / "out").rglob("*.*"))
    assert names == ["9.png", "animals/cat.png", "dog.png", "metadata.jsonl", "samples.json", "x-1.5.png"]
    assert len(json.loads((place / "out/samples.json").read_text())["prompts"]) == 64
    fewer = fdr_command("sample", *shared, "-n", 3, "-o", "few.npz", "-q")
    assert fewer.code == 0, fewer.err
    few = np.load(place / "few.npz")["arr_0"].astype(int)
    for image, name in zip(few, ("animals/cat", "dog", "x-1.5"), strict=True):
        assert abs(np.array(Image.open(place / "out" / f"{name}.png")).astype(int) - image).max() <= 1
    for command, more in (("eval", ()), ("check", ("--max", "fd=1e9")), ("compare", ("real.npz",))):
        measured = fdr_command(command, *more, *shared, "-n", 12, *MEASURED)
        assert measured.code == 0, measured.err
    assert fdr_command("eval", *shared, *MEASURED, "--json", "a.json").code == 0
    assert made_by(place / "a.json")["count"] == 4


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (("--gen", "sd"), "sd (50 steps) makes images of texts; give a file of them with --prompts."),
        (("--gen", "ddpm", "--prompts", "captions.jsonl"), "makes images without texts; leave out --prompts."),
        (("--gen", "ddpm", "--pipeline-args", "steps=3"), "Unknown argument 'steps'"),
        (
            ("--gen", "ddpm", "--noise-shape", "3"),
            "--noise-shape does not go with ddpm, a pipeline that is run as a whole",
        ),
        (
            ("--gen", "ddpm", "--arch-args", "timestep=3"),
            "--arch-args does not go with ddpm, a pipeline that is run as",
        ),
        (("--gen", "ddpm", "--arch", "diffusers", "--pipeline-args", "a=1"), "--pipeline-args goes with a pipeline of"),
        (("--gen", "ddpm", "--labels", "3"), "Class 3 was asked for, but the generator is unconditional"),
        (
            ("--gen", "owner/name", "--offline"),
            "There is no file or folder 'owner/name', and the run is offline",
        ),
        (("--gen", "no/such/path"), "The generator no/such/path does not exist"),
        (("--gen", "sd", "--prompts", "none.jsonl"), "none.jsonl does not exist"),
        (("--gen", "sd", "--prompts", "captions.jsonl", "-n", "0"), "number of images is 0; it must be at least 1"),
        (("--gen", "no_such_module:draw"), "importing 'no_such_module' failed"),
    ],
)
def test_one_sentence_each(fdr_command: Any, place: Path, given: tuple[str, ...], sentence: str) -> None:
    refused = fdr_command("sample", *given, "-o", "a.npz", "--device", "cpu", "-q")
    assert refused.code == 2 and sentence in refused.err.replace("\n", " "), refused.err
    assert "Traceback" not in refused.err


CODE = """
import torch

def draw(noise):
    return torch.sigmoid(noise).repeat(1, 3, 1, 1)

draw.noise_shape = (1, 8, 8)

class Net(torch.nn.Module):
    noise_shape = (1, 8, 8)

    def forward(self, noise):
        return torch.sigmoid(noise)

net = Net()

def pictures():
    return iter(torch.rand(9, 3, 8, 8, generator=torch.Generator().manual_seed(0)))

dataset = torch.utils.data.TensorDataset(torch.rand(9, 3, 8, 8))

def painted(prompt, generator):
    return [torch.full((8, 8, 3), len(text) / 9).numpy() for text in prompt]
"""


def test_objects_in_python(fdr_command: Any, place: Path) -> None:
    (place / "my_drawings.py").write_text(CODE)
    for name in ("draw", "net"):
        done = fdr_command("eval", "--gen", f"my_drawings:{name}", "-n", 5, *MEASURED, "--device", "cpu", "-q")
        assert done.code == 0, done.err
    prompted = ("--gen", "my_drawings:painted", "--prompts", "captions.jsonl", "--device", "cpu")
    done = fdr_command("eval", *prompted, *MEASURED)
    assert done.code == 0 and "painted" in done.out, done.err
    kept = fdr_command("sample", "--gen", "my_drawings:net", "-n", 5, "-o", "net.npz", "--device", "cpu", "-q")
    assert kept.code == 0 and np.load(place / "net.npz")["arr_0"].shape == (5, 8, 8, 3), kept.err
    cached = [one for one in MEASURED if one != "--no-cache"]
    assert fdr_command("eval", *prompted, *cached).code == 0  # nothing tells two functions apart, so nothing is kept
    for name in ("pictures", "dataset"):
        given = ("eval", "--gen", f"my_drawings:{name}", *MEASURED, "--device", "cpu", "-q")
        for count in (9, 5):
            done = fdr_command(*given, *(() if count == 9 else ("-n", count)), "--json", "a.json")
            assert done.code == 0, done.err
            assert json.loads((place / "a.json").read_text())["samples"]["count"] == count
        refused = fdr_command("sample", "--gen", f"my_drawings:{name}", "-o", "b.npz", "-q")
        assert refused.code == 2 and "A generator is a Generator" in refused.err
    refused = fdr_command("sample", "--gen", "my_drawings:nett", "-o", "b.npz", "-q")
    assert refused.code == 2 and "Unknown object of module my_drawings 'nett'; did you mean 'net'" in refused.err
    given = ("--gen", "my_drawings:net", "--device", "cpu", "-q", "-o", "b.npz")
    for option, value in (("--prompts", "captions.jsonl"), ("--pipeline-args", "a=1")):
        refused = fdr_command("sample", *given, option, value)
        assert refused.code == 2 and f"{option} goes with a pipeline" in refused.err
    refused = fdr_command("sample", "--gen", "my_drawings:Net", "-n", 5, "-o", "b.npz", "-q")
    assert refused.code == 2 and "my_drawings:Net is the class of a network" in refused.err


def test_a_configuration_names_no_object(fdr_command: Any, place: Path) -> None:
    (place / "my_drawings.py").write_text(CODE)
    (place / "fdr.toml").write_text('[eval]\ngen = "my_drawings:draw"\n')
    refused = fdr_command("eval", "-n", 5, *MEASURED)
    assert refused.code == 2 and "asks for 'my_drawings:draw', code that no installed package declares" in refused.err
    assert fdr_command("eval", "-n", 5, *MEASURED, "--trust", "--device", "cpu").code == 0
