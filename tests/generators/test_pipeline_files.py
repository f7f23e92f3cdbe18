"""Files of pipelines of diffusers: what is read, from where, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pipeline_worlds as worlds
import pytest
from pipeline_worlds import images, source

import fdr
from fdr.errors import InputError, WeightsError
from fdr.generators import LoadedPipeline, load_pipeline
from fdr.generators.loaded_pipeline import names_whole_pipeline
from fdr.images import Captions

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
KINDS = ("ddpm", "dit", "sd")


def edited(folder: Path, to: Path, file: str, **settings: Any) -> Path:

    shutil.copytree(folder, to)
    data = {**json.loads((to / file).read_text()), **settings}
    (to / file).write_text(json.dumps({key: value for key, value in data.items() if value is not None}))
    return to


INDEX = "model_index.json"


@pytest.mark.parametrize(
    ("kind", "file", "settings", "sentence"),
    [
        (
            "ddpm",
            INDEX,
            {"_class_name": ["pipeline", "Mine"]},
            r'of a class of its own \(\["pipeline", "Mine"\]\), and fdr',
        ),
        ("ddpm", INDEX, {"_class_name": "MyPipeline"}, "MyPipeline, which is no pipeline of diffusers"),
        ("ddpm", INDEX, {"_class_name": "DDIMScheduler"}, "DDIMScheduler, which is no pipeline of diffusers"),
        ("ddpm", INDEX, {"unet": ["my_unet", "Net"]}, "part 'unet', Net of my_unet; fdr makes parts of diffusers and"),
        ("ddpm", INDEX, {"unet": ["os", "system"]}, "part 'unet', system of os"),
        ("ddpm", INDEX, {"unet": ["diffusers", "Nothing"]}, None),
        ("ddpm", INDEX, {"unet": ["transformers", "AutoModel"]}, "neither a network nor a tokenizer"),
        ("ddpm", INDEX, {"../unet": ["diffusers", "UNet2DModel"]}, r"part '\.\./unet'"),
        ("ddpm", INDEX, {"unet": None}, "cannot be made of its parts"),
        ("ddpm", "unet/config.json", {"_class_name": "Mine"}, "config.json describes a Mine"),
        ("ddpm", "unet/config.json", {"block_out_channels": [8, 12]}, "does not fit diffusion model"),
        (
            "ddpm",
            "scheduler/scheduler_config.json",
            {"beta_schedule": "none such"},
            "cannot be made from its configuration",
        ),
        ("sd", "text_encoder/config.json", {"hidden_size": 32}, "does not fit network"),
        ("sd", "text_encoder/config.json", {"hidden_act": "evil"}, "cannot be made from its configuration"),
        ("ddpm", "unet/config.json", {"quantization_config": {"quant_method": "evil"}}, "does not fit diffusion model"),
        ("sd", "tokenizer/tokenizer.json", {"model": {"type": "evil"}}, "cannot be made from its files"),
    ],
)
def test_what_a_folder_holds_that_cannot_be_run(
    folders: Mapping[str, Path], tmp_path: Path, kind: str, file: str, settings: dict[str, Any], sentence: str | None
) -> None:
    place = edited(folders[kind], tmp_path / "edited", file, **settings)
    if sentence is None:  # the class is that of the part's own description
        assert load_pipeline(place, device="cpu").digest
        return
    with pytest.raises((InputError, WeightsError), match=sentence) as error:
        load_pipeline(place, device="cpu")
    assert "\n" not in str(error.value)


def test_a_safety_checker_is_left_out(
    folders: Mapping[str, Path], loaded: Mapping[str, LoadedPipeline], captions: Captions, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"]}
    settings |= {"feature_extractor": ["transformers", "CLIPImageProcessor"], "requires_safety_checker": True}
    place = edited(folders["sd"], tmp_path / "edited", INDEX, **settings)
    made = source(load_pipeline(place, worlds.ARGUMENTS["sd"], device="cpu"), captions=captions)
    assert made.made_by["left_out"] == ["safety_checker", "feature_extractor"]
    assert "left_out" not in source(loaded["sd"], captions=captions).made_by
    assert np.array_equal(images(made), images(source(loaded["sd"], captions=captions)))


EVIL = "import pathlib\npathlib.Path({marker!r}).touch()\nclass Net: ...\nclass Tokenizer: ...\n"


def test_no_code_of_a_folder_is_run(
    folders: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = tmp_path / "was run"
    place = edited(folders["sd"], tmp_path / "edited", INDEX, custom_pipeline="evil", trust_remote_code=True)
    for part, file in (
        ("text_encoder", "config.json"),
        ("tokenizer", "tokenizer_config.json"),
        ("unet", "config.json"),
    ):
        (place / part / "evil.py").write_text(EVIL.format(marker=str(marker)))
        data = json.loads((place / part / file).read_text())
        kinds = {"AutoModel": "evil.Net", "AutoConfig": "evil.Net", "AutoTokenizer": ["evil.Tokenizer", None]}
        data |= {"auto_map": kinds, "trust_remote_code": True}
        if part == "text_encoder":
            data |= {"attn_implementation": "evil/kernel", "_attn_implementation": "evil/kernel"}
        (place / part / file).write_text(json.dumps(data))
    for name in ("pipeline.py", "evil.py"):
        (place / name).write_text(EVIL.format(marker=str(marker)))
    monkeypatch.chdir(place)
    made = load_pipeline(place, worlds.ARGUMENTS["sd"], device="cpu")
    assert type(made.pipeline.text_encoder).__module__.startswith("transformers.") and not marker.exists()


@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        ("text_encoder/config.json", r"part '.*/text_encoder' of a pipeline has no config.json, which describes it"),
        ("unet/config.json", r"part '.*/unet' of a pipeline has no config.json"),
        ("scheduler/scheduler_config.json", r"part '.*/scheduler' of a pipeline has no scheduler_config.json"),
        ("tokenizer", r"tokenizer '.*' has no vocab.json and merges.txt; it needs tokenizer.json or vocab.json and"),
        ("tokenizer/tokenizer.json", r"tokenizer '.*' has no vocab.json and merges.txt"),
    ],
)
def test_files_that_are_missing(folders: Mapping[str, Path], tmp_path: Path, file: str, sentence: str) -> None:
    place = edited(folders["sd"], tmp_path / "edited", INDEX)
    if (place / file).is_dir():
        shutil.rmtree(place / file)
    else:
        (place / file).unlink()
    with pytest.raises(WeightsError, match=sentence):
        load_pipeline(place, device="cpu")
    if file == "tokenizer/tokenizer.json":
        (place / "tokenizer" / "vocab.json").write_text("{}")
        with pytest.raises(WeightsError, match=r"has no merges.txt; it needs tokenizer.json or vocab.json and merges"):
            load_pipeline(place, device="cpu")


def test_damaged_weights_are_one_sentence(folders: Mapping[str, Path], tmp_path: Path) -> None:
    place = edited(folders["sd"], tmp_path / "edited", INDEX)
    path = place / "text_encoder" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(WeightsError, match=r"^Weight file .* is truncated or damaged"):
        load_pipeline(place, device="cpu")


def test_weights_in_pickles_are_not_read(folders: Mapping[str, Path], tmp_path: Path) -> None:
    place = edited(folders["ddpm"], tmp_path / "edited", INDEX)
    (place / "unet" / "diffusion_pytorch_model.safetensors").rename(place / "unet" / "diffusion_pytorch_model.bin")
    sentence = r"edited/unet' of a pipeline holds diffusion_pytorch_model.bin; fdr reads .safetensors alone"
    with pytest.raises(WeightsError, match=sentence):
        load_pipeline(place, device="cpu")
    (place / "unet" / "diffusion_pytorch_model.bin").unlink()
    with pytest.raises(WeightsError, match="of a pipeline has no weights; fdr reads"):
        load_pipeline(place, device="cpu")
    other = edited(folders["sd"], tmp_path / "variant", INDEX)
    (other / "text_encoder" / "model.safetensors").rename(other / "text_encoder" / "model.fp16.safetensors")
    with pytest.raises(WeightsError, match=r"text_encoder' of a pipeline holds model.fp16.safetensors; fdr reads"):
        load_pipeline(other, device="cpu")


@pytest.mark.parametrize(
    ("kind", "given", "sentence"),
    [
        ("ddpm", {"steps": 3}, "Unknown argument 'steps'; .*num_inference_steps.*a DDPMPipeline, takes none"),
        ("sd", {"prompt": "a cat"}, "gets prompt from fdr; give prompts with prompts"),
        ("ddpm", {"batch_size": 3}, "gets batch_size from fdr; leave it out"),
        ("ddpm", {"dtype": "int8"}, "dtype is 'int8'; expected float32, bf16, float16"),
        ("ddpm", {"scheduler": "DDIMSchedulr"}, "Unknown scheduler 'DDIMSchedulr'; did you mean .*'DDIMScheduler'"),
    ],
)
def test_arguments_that_are_none(folders: Mapping[str, Path], kind: str, given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        load_pipeline(folders[kind], given, device="cpu")


def test_places_without_a_pipeline(tmp_path: Path) -> None:
    for name in (str(tmp_path), "name", "a/b/c/d@e@f"):
        with pytest.raises(InputError, match=r"is no pipeline of diffusers, which is a folder with model_index.json"):
            load_pipeline(name)


def test_names_of_pipelines(folders: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    assert names_whole_pipeline(str(folders["ddpm"])) and names_whole_pipeline("google/ddpm-cifar10-32")
    assert names_whole_pipeline("owner/name@main")
    for other in (str(tmp_path), "runs/a", "weights/a.safetensors", "a/b/c", "name", "/a/b", "a.pt2"):
        assert not names_whole_pipeline(other)


def test_a_repository_is_fetched_once_and_without_code(
    folders: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    from fdr.weights import pipelines

    stored, fetched = tmp_path / "hub", []
    files = [path.relative_to(folders["sd"]).as_posix() for path in folders["sd"].rglob("*") if path.is_file()]
    extra = ["unet/model.fp16.safetensors", "unet/diffusion_pytorch_model.bin", "pipeline.py", "vae/x.py", "a.ckpt"]

    def fetch(repo: str, file: str, revision: str | None, **_: Any) -> Path:
        assert (repo, revision) == ("owner/name", "v1")
        fetched.append(file)
        (stored / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folders["sd"] / file, stored / file)
        return stored / file

    monkeypatch.setattr(pipelines, "hub_files", lambda *_: [*files, *extra])
    monkeypatch.setattr(pipelines, "fetch_from_hub", fetch)
    monkeypatch.setattr(pipelines, "cached_folder", lambda *_: stored if stored.exists() else None)
    with pytest.raises(WeightsError, match=r"There is no file or folder 'owner/name@v1', and the run is offline"):
        load_pipeline("owner/name@v1", offline=True)
    found = load_pipeline("owner/name@v1", worlds.ARGUMENTS["sd"], device="cpu", offline=False)
    assert sorted(fetched) == sorted(files)
    assert found.digest == load_pipeline(folders["sd"], worlds.ARGUMENTS["sd"], device="cpu").digest
    fetched.clear()
    load_pipeline("owner/name@v1", device="cpu", offline=True)
    assert not fetched
    (stored / "unet" / "diffusion_pytorch_model.safetensors").unlink()  # as after a killed download
    load_pipeline("owner/name@v1", device="cpu", offline=False)
    assert "unet/diffusion_pytorch_model.safetensors" in fetched
    monkeypatch.setattr(pipelines, "hub_files", lambda *_: ["model.safetensors"])
    shutil.rmtree(stored)
    with pytest.raises(WeightsError, match=r"the repository of the hub has no model_index.json"):
        load_pipeline("owner/name@v1", device="cpu", offline=False)


def test_the_cache_of_the_hub_is_read(
    folders: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    from huggingface_hub import HfApi, constants, errors

    from fdr.weights import download

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    commit = "0" * 40
    repository = tmp_path / "models--owner--name"
    shutil.copytree(folders["ddpm"], repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    found = load_pipeline("owner/name", worlds.ARGUMENTS["ddpm"], device="cpu", offline=True)
    assert found.name == "owner/name" and load_pipeline(f"owner/name@{commit}", device="cpu", offline=True).digest
    with pytest.raises(WeightsError, match="hf download owner/other --revision v2"):
        load_pipeline("owner/other@v2", device="cpu", offline=True)
    monkeypatch.setattr(download, "_check_route", lambda _: None)
    response = SimpleNamespace(headers={}, status_code=404, url="", request=None)
    for error, sentence in (
        (errors.RepositoryNotFoundError("gone", response=response), "the hub has no repository owner/other"),
        (ConnectionError("reset"), "the connection to the hub broke"),
    ):
        monkeypatch.setattr(HfApi, "list_repo_files", lambda *_, error=error, **__: (_ for _ in ()).throw(error))
        with pytest.raises(WeightsError, match=sentence):
            load_pipeline("owner/other", device="cpu", offline=False)


def test_a_pipeline_of_the_first_kind_has_its_files_side_by_side(
    folders: Mapping[str, Path], loaded: Mapping[str, LoadedPipeline], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    from fdr.weights import pipelines

    place = tmp_path / "old"
    place.mkdir()
    for file in folders["ddpm"].rglob("*.*"):
        if file.is_file():
            shutil.copyfile(file, place / file.name)
    old = load_pipeline(place, worlds.ARGUMENTS["ddpm"], device="cpu")
    assert old.digest == loaded["ddpm"].digest
    stored = tmp_path / "hub"
    stored.mkdir()
    monkeypatch.setattr(pipelines, "cached_folder", lambda *_: None)
    monkeypatch.setattr(pipelines, "hub_files", lambda *_: [path.name for path in place.iterdir()] + ["evil.py"])

    def fetch(repo: str, file: str, revision: str | None, **_: Any) -> Path:
        return Path(shutil.copyfile(place / file, stored / file))

    monkeypatch.setattr(pipelines, "fetch_from_hub", fetch)
    assert load_pipeline("owner/name", worlds.ARGUMENTS["ddpm"], device="cpu", offline=False).digest == old.digest
    with pytest.warns(fdr.errors.FdrWarning, match="one-step images are far from images"):
        once = [
            fdr.load_generator(one, "diffusers", offline=False, device="cpu")
            for one in (str(folders["ddpm"]), str(place), "owner/name")
        ]
    assert len({one.digest() for one in once}) == 1
