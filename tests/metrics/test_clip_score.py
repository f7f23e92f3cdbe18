"""CLIPScore: its law, its parity with torchmetrics, transformers and OpenCLIP on tiny seeded CLIPs, and its errors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import scipy.stats
import torch
import torchmetrics.multimodal
import transformers
from clip_worlds import CONTEXT, GivenClip, coloured, tiny_clip
from open_clip import pretrained as tags
from PIL import Image
from safetensors.torch import save_file
from thread_ranks import on_ranks
from worlds import TinyEncoder, folder, images, npz

import fdr
from fdr.comparison import paired_errors
from fdr.encoders import EncoderOptions
from fdr.errors import InputError, WeightsError
from fdr.evaluation import Evaluator, evaluate, measure_sets
from fdr.features import ExtractionOptions
from fdr.images import Captions, ImageOptions
from fdr.runtime import Group

PROMPTS = ["a red bus", "two dogs", "photo of a green house", "Zebra", "a cat", "a cat", "blue!"]
LONG = "a red bus and a red dog and a red cat"
KEY = "clip_score"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def squares() -> np.ndarray:
    return images(len(PROMPTS), side=32)


def captions(prompts: list[str], categories: list[str] | None = None) -> Captions:
    return Captions("p.csv", prompts, [f"{row:04d}.jpg" for row in range(len(prompts))], categories)


# The law


def test_equal_directions_give_100_orthogonal_and_opposite_ones_0(tmp_path: Path) -> None:
    pictures = coloured((255, 128), (2, 255), (2, 0), (255, 255))
    report = evaluate(
        npz(tmp_path / "s.npz", pictures), None, GivenClip(), "clip_score", prompts=["1 0", "1 0", "0 1", "2 1"]
    )
    found = report[KEY]
    red, green = pictures[..., 0].mean((1, 2)) / 255, pictures[..., 1].mean((1, 2)) / 255 - 0.5
    texts = np.array([[1, 0], [1, 0], [0, 1], [2, 1]])
    cosines = (red * texts[:, 0] + green * texts[:, 1]) / np.hypot(red, green) / np.linalg.norm(texts, axis=1)
    scores = 100 * np.maximum(cosines, 0)
    assert scores[0] > 99.99 and scores[1] < 2 and scores[2] == 0
    assert found.value == pytest.approx(scores.mean(), rel=1e-6)
    assert found.stderr == pytest.approx(scores.std(ddof=1) / 2, rel=1e-6)
    assert not found.lower_is_better and "mult:100" in found.signature


def test_the_paper_has_another_factor_and_its_own_words_before_prompts(tmp_path: Path, clip: Path) -> None:
    samples = npz(tmp_path / "s.npz", images(3, side=32))
    own = evaluate(samples, None, f"hf:{clip}", "clip_score,clip_score:paper", prompts=["a red bus", "dog", "cat"])
    prefixed = [f"A photo depicts {prompt}" for prompt in ("a red bus", "dog", "cat")]
    other = evaluate(samples, None, f"hf:{clip}", "clip_score", prompts=prefixed)
    paper, plain = own["clip_score:paper"], other[KEY]
    assert paper.value == pytest.approx(2.5 / 100 * plain.value, rel=1e-6)
    assert "mult:2.5|pre:A photo depicts" in paper.signature


def test_categories_have_means_of_their_own(tmp_path: Path) -> None:
    pictures = coloured((255, 128), (255, 128), (0, 255), (255, 128))
    prompts = captions(["1 0", "1 0", "1 0", "0 1"], ["dogs", "cars", "dogs", "cars"])
    found = evaluate(folder(tmp_path / "s", pictures), None, GivenClip(), "clip_score", prompts=prompts)[KEY]
    classes = found.details["classes"]
    assert {name: part["n"] for name, part in classes.items()} == {"cars": 2, "dogs": 2}
    assert found.value == pytest.approx(np.mean([part["clip_score"] for part in classes.values()]), rel=1e-9)
    assert classes["dogs"]["clip_score"] == pytest.approx(50, abs=2) and classes["dogs"]["stderr"] > 10


# Oracles


class TensorClip(transformers.CLIPModel):
    """Gives tensors, as before transformers 5, which torchmetrics 1.9 expects."""

    def get_image_features(self, *args, **kwargs):
        return super().get_image_features(*args, **kwargs).pooler_output

    def get_text_features(self, *args, **kwargs):
        return super().get_text_features(*args, **kwargs).pooler_output


def test_parity_with_torchmetrics_and_transformers(tmp_path: Path, clip: Path, squares: np.ndarray) -> None:
    name = f"hf:{clip}"
    report = evaluate(npz(tmp_path / "s.npz", squares), None, name, "clip_score", prompts=PROMPTS)
    model = transformers.CLIPModel.from_pretrained(clip).eval()
    processor = transformers.CLIPProcessor.from_pretrained(clip)
    processor.image_processor = transformers.CLIPImageProcessorPil.from_pretrained(clip)
    theirs = torchmetrics.multimodal.CLIPScore(lambda: (TensorClip.from_pretrained(clip).eval(), processor))
    per_image = []
    for image, prompt in zip(squares, PROMPTS, strict=True):  # it clamps the mean; the definition clamps every image
        theirs.update(torch.from_numpy(image).permute(2, 0, 1), prompt)
        per_image.append(theirs.compute().item())
        theirs.reset()
    assert np.std(per_image) > 0.1
    assert report[KEY].value == pytest.approx(np.mean(per_image), abs=1e-4)

    given = processor(
        text=PROMPTS, images=[Image.fromarray(image) for image in squares], return_tensors="pt", padding=True
    )
    with torch.inference_mode():
        output = model(**given)
    cosines = (output.image_embeds * output.text_embeds).sum(1).double()
    assert report[KEY].value == pytest.approx(100 * cosines.clamp(min=0).mean().item(), abs=1e-4)


def test_prompts_that_are_cut_end_as_transformers_cuts_them(tmp_path: Path, clip: Path) -> None:
    texts = fdr.load_encoder(f"hf:{clip}", device="cpu").load_texts()
    embeddings, is_cut = texts([LONG, "a red bus"])
    assert is_cut.tolist() == [True, False] and texts.max_tokens == CONTEXT
    tokenizer = transformers.CLIPTokenizer.from_pretrained(clip)
    tokens = tokenizer([LONG], truncation=True, max_length=CONTEXT, return_tensors="pt")
    with torch.inference_mode():
        model = transformers.CLIPModel.from_pretrained(clip).eval()
        expected = model.get_text_features(**tokens).pooler_output.numpy()
    np.testing.assert_allclose(embeddings[:1], expected, rtol=0, atol=2e-6 * np.abs(expected).max())
    report = evaluate(
        npz(tmp_path / "s.npz", images(2, side=32)), None, f"hf:{clip}", "clip_score", prompts=[LONG, "a"]
    )
    (row,) = report
    assert row.details["cut_prompts"] == 1
    assert row.notes == (f"1 of 2 prompts have more than {CONTEXT} tokens, and what comes after these is not read",)


@pytest.fixture
def openclip_weights(tmp_path: Path) -> Path:
    """A tiny architecture and tag, known to OpenCLIP as its own are, and the folder with its weights."""
    vision = {"image_size": 32, "layers": 1, "width": 32, "patch_size": 8, "head_width": 16}
    text = {"context_length": 8, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1}
    configs = tmp_path / "configs"
    configs.mkdir()
    for name, more in (("fdr-texts", {}), ("fdr-hub-texts", {"hf_tokenizer_name": "someone/else"})):
        config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text | more}
        (configs / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(configs)
    for name in ("fdr-texts", "fdr-hub-texts"):
        tags._PRETRAINED[name] = {"tag": tags._pcfg(hf_hub=f"fdr/{name}/")}
        torch.manual_seed(5)
        state = {
            key: tensor + torch.randn_like(tensor) * 0.1
            for key, tensor in open_clip.create_model(name).state_dict().items()
        }
        (tmp_path / f"fdr--{name}").mkdir()
        save_file(state, tmp_path / f"fdr--{name}" / "open_clip_model.safetensors")
    yield tmp_path
    for name in ("fdr-texts", "fdr-hub-texts"):
        del tags._PRETRAINED[name]


def test_parity_with_openclip(openclip_weights: Path, squares: np.ndarray) -> None:
    encoder = fdr.load_encoder("openclip:fdr-texts/tag", weights_dir=openclip_weights, device="cpu")
    prompts = [*PROMPTS[:6], f"{LONG} {LONG}"]
    report = evaluate(npz(openclip_weights / "s.npz", squares), None, encoder, "clip_score", prompts=prompts)
    path = openclip_weights / "fdr--fdr-texts" / "open_clip_model.safetensors"
    model = open_clip.create_model("fdr-texts", pretrained=str(path)).eval()
    tokens = open_clip.get_tokenizer("fdr-texts")(prompts)
    pixels = encoder.preprocess(torch.from_numpy(squares).permute(0, 3, 1, 2).float() / 255)
    with torch.inference_mode():
        left, right = model.encode_image(pixels, normalize=True), model.encode_text(tokens, normalize=True)
    expected = 100 * (left * right).sum(1).double().clamp(min=0)
    assert report[KEY].value == pytest.approx(expected.mean().item(), abs=1e-4)
    assert report[KEY].details["cut_prompts"] == 1


def test_a_tokenizer_on_the_hub_is_refused(openclip_weights: Path) -> None:
    encoder = fdr.load_encoder("openclip:fdr-hub-texts/tag", weights_dir=openclip_weights, device="cpu")
    with pytest.raises(InputError, match="whose tokenizer is fetched from the hub"):
        evaluate(npz(openclip_weights / "s.npz", images(2)), None, encoder, "clip_score", prompts=["a", "b"])


# Pairs


def test_prompts_follow_names_bad_images_and_subsets(tmp_path: Path) -> None:
    pictures = coloured((255, 128), (255, 200), (255, 255), (100, 255), (2, 255))
    prompts = ["1 0", "2 1", "1 1", "1 2", "0 1"]
    samples = folder(tmp_path / "s", pictures)
    whole = evaluate(samples, None, GivenClip(), "clip_score", prompts=captions(prompts))[KEY]
    shuffled = captions(prompts).take([3, 0, 4, 2, 1])
    assert evaluate(samples, None, GivenClip(), "clip_score", prompts=shuffled)[KEY].value == whole.value
    by_name = dict(zip([f"{row:04d}" for row in range(5)], prompts, strict=True))
    assert evaluate(samples, None, GivenClip(), "clip_score", prompts=by_name)[KEY].value == whole.value

    options = ImageOptions(count=3, seed=1)
    rows = fdr.open_images(samples, options).rows
    some = evaluate(samples, None, GivenClip(), "clip_score", prompts=captions(prompts), image_options=options)[KEY]
    alone = npz(tmp_path / "some.npz", pictures[rows])
    expected = evaluate(alone, None, GivenClip(), "clip_score", prompts=[prompts[row] for row in rows])[KEY]
    assert some.value == pytest.approx(expected.value, rel=1e-9)

    (samples / "0001.png").write_bytes(b"no image")
    options = ImageOptions(on_bad="skip", max_bad=0.5)
    left = evaluate(samples, None, GivenClip(), "clip_score", prompts=captions(prompts), image_options=options)[KEY]
    rest = npz(tmp_path / "rest.npz", np.delete(pictures, 1, 0))
    expected = evaluate(rest, None, GivenClip(), "clip_score", prompts=[prompts[row] for row in (0, 2, 3, 4)])[KEY]
    assert left.value == pytest.approx(expected.value, rel=1e-9)


def test_files_without_padding_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    samples = tmp_path / "s"
    samples.mkdir()
    for row, picture in enumerate(coloured(*[(255, 128)] * 10, (2, 255))):
        Image.fromarray(picture).save(samples / f"{row}.png")
    found = evaluate(samples, None, GivenClip(), "clip_score", prompts=[*["1 0"] * 10, "0 1"])[KEY]
    assert found.value > 99  # 10.png is the last one, though its name sorts before 2.png


def test_batches_do_not_change_the_score_and_each_prompt_is_embedded_once(tmp_path: Path) -> None:
    encoder, samples = GivenClip(), npz(tmp_path / "s.npz", coloured(*[(255, 128 + row) for row in range(9)]))
    values = {
        evaluate(samples, None, encoder, "clip_score", prompts=["1 0", "1 1", "2 1"] * 3, batch_size=size)[KEY].value
        for size in (1, 4, 9)
    }
    assert len(values) == 1
    assert encoder.tower.num_embedded == 3 * 3  # three runs, and three different prompts in each


def test_embeddings_of_prompts_are_kept_in_the_cache(tmp_path: Path) -> None:
    encoder, samples = GivenClip(), npz(tmp_path / "s.npz", coloured((255, 128), (2, 255), (9, 99)))

    def score(prompts: list[str], metric: str = "clip_score") -> tuple[float, int]:
        before = encoder.tower.num_embedded
        report = evaluate(samples, None, encoder, metric, prompts=prompts, cache=tmp_path / "c")
        return report[metric].value, encoder.tower.num_embedded - before

    first = score(["1 0", "0 1", "1 1"])
    assert first[1] == 3 and score(["1 0", "0 1", "1 1"]) == (first[0], 0)
    assert score(["1 0", "0 1", "2 1"])[1] == 3
    assert score(["1 0", "0 1", "1 1"], "clip_score:paper")[1] == 3  # other words before the prompts
    encoder.tower.tokenizer = "another"
    assert score(["1 0", "0 1", "1 1"])[1] == 3
    for file in (tmp_path / "c" / "texts").iterdir():
        file.write_bytes(file.read_bytes()[:60])
    assert score(["1 0", "0 1", "1 1"]) == (first[0], 3)


def test_ranks_give_the_score_of_one(tmp_path: Path) -> None:
    samples = folder(tmp_path / "s", coloured(*[(255, 120 + 9 * row) for row in range(7)]))
    prompts = captions(["1 0", "0 1", "2 1", "1 2", "1 1", "1 0", "0 1"])
    alone = evaluate(samples, None, GivenClip(), "clip_score", prompts=prompts)[KEY]
    encoders = [GivenClip(), GivenClip()]

    def run(group: Group) -> fdr.Report:
        return evaluate(samples, None, encoders[group.rank], "clip_score", prompts=prompts, group=group)

    for report in on_ranks(2, run):
        assert (report[KEY].value, report[KEY].stderr) == (alone.value, alone.stderr)


def test_the_prompts_and_their_tokenizer_are_in_the_signature_and_the_report(tmp_path: Path, clip: Path) -> None:
    samples = npz(tmp_path / "s.npz", images(3, side=32))
    first, other = captions(["a", "b", "c"]), captions(["a", "b", "d"])
    report = evaluate(samples, None, f"hf:{clip}", "clip_score", prompts=first)
    (row,) = report
    assert f"txt:{first.digest[:8]}|" in row.signature
    assert report.samples["prompts"] == {"source": "p.csv", "count": 3, "digest": first.digest}
    assert next(iter(evaluate(samples, None, f"hf:{clip}", "clip_score", prompts=other))).signature != row.signature
    tokenizer = clip / "tokenizer.json"
    text = tokenizer.read_text()
    try:
        tokenizer.write_text(text + " ")
        again = next(iter(evaluate(samples, None, f"hf:{clip}", "clip_score", prompts=first)))
    finally:
        tokenizer.write_text(text)
    assert again.value == row.value and again.signature != row.signature


def test_sets_of_the_same_prompts_are_compared_prompt_by_prompt(tmp_path: Path) -> None:
    first = coloured((255, 128), (255, 200), (255, 255), (100, 255), (2, 255))
    second = coloured((255, 150), (255, 210), (200, 255), (100, 230), (9, 255))
    prompts = captions(["1 0", "2 1", "1 1", "1 2", "0 1"])
    paths = [folder(tmp_path / name, array) for name, array in (("a", first), ("b", second))]
    (tmp_path / "b" / "0003.png").write_bytes(b"no image")
    options = ImageOptions(on_bad="skip", max_bad=0.5)
    evaluator = Evaluator(
        GivenClip(),
        None,
        "clip_score",
        image_options=options,
        encoder_options=EncoderOptions(),
        extraction_options=ExtractionOptions(),
        prompts=prompts,
    )
    measured = dict(zip("ab", measure_sets(evaluator, [fdr.open_images(path, options) for path in paths]), strict=True))
    scores = {name: one.scores[f"{KEY}:given"] for name, one in measured.items()}
    assert scores["a"].mean() == pytest.approx(measured["a"].report[KEY].value, rel=1e-12)
    assert np.isnan(scores["b"]).tolist() == [False, False, False, True, False]
    reports = {name: one.report for name, one in measured.items()}
    found = paired_errors(reports, {"a": {}, "b": {}}, {name: one.scores for name, one in measured.items()})
    differences = np.delete(scores["b"] - scores["a"], 3)
    expected = scipy.stats.sem(differences)
    assert found["a", "b"][f"{KEY}:given"] == pytest.approx(expected, rel=1e-12)
    assert expected < np.hypot(*(report[KEY].stderr for report in reports.values()))


# Errors


def test_missing_prompts_towers_and_partners_are_one_sentence(tmp_path: Path, clip: Path) -> None:
    samples = folder(tmp_path / "s", coloured((255, 128), (2, 255)))
    with pytest.raises(InputError, match=r"'clip_score' compares images with their prompts; give them with prompts"):
        evaluate(samples, None, GivenClip(), "clip_score")
    with pytest.raises(InputError, match="needs an encoder with a text tower, and tiny has none"):
        evaluate(samples, None, TinyEncoder(), "clip_score", prompts=["1 0", "0 1"])
    with pytest.raises(InputError, match=r"p has 1 prompts and .* 2 images, which are matched by their order"):
        evaluate(samples, None, GivenClip(), "clip_score", prompts=Captions("p", ["1 0"], ["0"], has_names=False))
    with pytest.raises(InputError, match=r"1 of 2 images of .* have no prompt in p.csv \(0001.png\)"):
        evaluate(samples, None, GivenClip(), "clip_score", prompts=captions(["1 0"]))
    with pytest.raises(InputError, match=r"1 of 3 prompts of p.csv have no image in .* \(0002.jpg\)"):
        evaluate(samples, None, GivenClip(), "clip_score", prompts=captions(["1 0", "0 1", "1 1"]))
    with pytest.raises(
        InputError, match="Prompts are a file, a list of texts, or a dict of texts by image name; got int"
    ):
        evaluate(samples, None, GivenClip(), "clip_score", prompts=3)
    with pytest.raises(InputError, match="embedding of length 0"):
        evaluate(samples, None, GivenClip(), "clip_score", prompts=["0 0", "0 1"])


def test_a_tower_without_its_tokenizer_or_saved_alone_is_one_sentence(tmp_path: Path, clip: Path) -> None:
    samples, tokenizer = npz(tmp_path / "s.npz", images(2, side=32)), clip / "tokenizer.json"
    text = tokenizer.read_text()
    try:
        tokenizer.write_text("{}")
        with pytest.raises(InputError, match=r"tokenizer.json' is not a tokenizer"):
            evaluate(samples, None, f"hf:{clip}", "clip_score", prompts=["a", "b"])
        tokenizer.unlink()
        with pytest.raises(WeightsError, match=r"tokenizer.json"):
            evaluate(samples, None, f"hf:{clip}", "clip_score", prompts=["a", "b"])
    finally:
        tokenizer.write_text(text)
    alone = tmp_path / "vision"
    transformers.CLIPVisionModelWithProjection.from_pretrained(clip).save_pretrained(alone)
    (alone / "preprocessor_config.json").write_bytes((clip / "preprocessor_config.json").read_bytes())
    with pytest.raises(InputError, match="needs an encoder with a text tower"):
        evaluate(samples, None, f"hf:{alone}", "clip_score", prompts=["a", "b"])


def test_encoders_without_a_text_tower_are_left_out_beside_one_that_has_it(tmp_path: Path) -> None:
    samples = npz(tmp_path / "s.npz", coloured((255, 128), (2, 255), (9, 9)))
    reference = npz(tmp_path / "r.npz", images(8, side=8))
    report = evaluate(samples, reference, [TinyEncoder(), GivenClip()], "fd,clip_score", prompts=["1 0"] * 3)
    assert {(row.metric, row.encoder) for row in report} == {
        ("fd", "tiny"),
        ("fd", "given"),
        ("clip_score", "given"),
    }
