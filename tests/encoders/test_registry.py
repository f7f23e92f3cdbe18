"""Names become encoders: bundles, near matches, lazy imports, and any callable."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from fdr import runtime
from fdr.encoders import (
    BUNDLES,
    ROWS,
    AbstractEncoder,
    CallableEncoder,
    EncoderOptions,
    EncoderSpec,
    as_encoder,
    list_encoders,
    load_encoder,
    parse_encoders,
    registry,
)
from fdr.encoders.loading import load_encoders
from fdr.encoders.registry import canonical_name, parse_open_name
from fdr.errors import InputError

IMAGES = torch.rand((4, 3, 8, 8), generator=torch.Generator().manual_seed(0))


class Pixels(torch.nn.Module):
    """Mean colour, projected; dropout shows whether it is in eval mode."""

    def __init__(self, width: int = 5, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.project = torch.nn.Linear(3, width)
        self.drop = torch.nn.Dropout(0.5)

    def forward(self, images):
        return self.drop(self.project(images.mean((2, 3))))


def mean_colour(images):
    return images.mean((2, 3))


# --- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("inception,dinov2", ["inception", "dinov2"]),
        (" dinov2 , inception ,", ["dinov2", "inception"]),
        ("inception,fdr6", ["inception", *BUNDLES["fdr6"]]),
        ("clip,fdr6,clip", ["clip", *(name for name in BUNDLES["fdr6"] if name != "clip")]),
        (["inception", "mae,clip"], ["inception", "mae", "clip"]),
        ("timm:resnet50.a1_in1k,random", ["timm:resnet50.a1_in1k", "random"]),
        ("inception:clean", ["inception:clean"]),
    ],
)
def test_names_are_parsed_in_order_and_once(text, names):
    assert parse_encoders(text) == names


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("dinov", "Unknown encoder 'dinov'; did you mean 'dinov2'"),
        ("inception,fdr7", "did you mean 'fdr6'"),
        ("inception:cleen", "did you mean 'inception:clean'"),
        ("timm:", "Unknown encoder 'timm:'"),
        ("zzz", "known: clip, clip:clean-fid.*timm:NAME"),
        ("", "No encoder was named"),
        (" , ", "No encoder was named"),
        ([], "No encoder was named"),
    ],
)
def test_what_means_nothing_gets_one_sentence(text, sentence):
    with pytest.raises(InputError, match=sentence):
        parse_encoders(text)


def test_every_listed_encoder_has_a_family_that_loads_it():
    assert list_encoders() == ROWS
    for row in list_encoders():
        assert callable(registry.family_module(row.family).load)


def test_names_cost_no_heavy_import():
    code = (
        "import sys, fdr; from fdr.encoders.registry import parse_encoders\n"
        "fdr.list_encoders(); fdr.load_encoder; parse_encoders('fdr6,timm:resnet50,random')\n"
        "heavy = {'torch', 'timm', 'numpy', 'huggingface_hub', 'torchvision'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- loading -------------------------------------------------------------------------------------------------------


@pytest.fixture
def stub_family(monkeypatch):
    """A family whose factory shows what it was called with."""
    seen = []

    def load(name, options):
        seen.append((name, options))
        return CallableEncoder(mean_colour, "cpu")

    monkeypatch.setattr("fdr.encoders.inception.load", load)
    return seen


def test_options_reach_the_family(stub_family, tmp_path):
    load_encoder("inception:clean", weights=str(tmp_path / "w.pth"), device="cpu", exact_order=True, offline=True)
    ((name, options),) = stub_family
    assert name == "inception:clean"
    assert options.weights == tmp_path / "w.pth"
    assert (options.device, options.dtype, options.exact_order, options.offline) == ("cpu", "float32", True, True)


def test_a_weight_file_goes_to_the_encoder_that_it_is_given_for(stub_family, tmp_path):
    """Even if the encoder is named twice; a file for another encoder is an error."""
    files = {"inception:clean": tmp_path / "a.pth"}
    load_encoders("inception:clean,inception:clean", EncoderOptions(device="cpu"), files)
    assert [(name, options.weights) for name, options in stub_family] == [("inception:clean", tmp_path / "a.pth")]
    with pytest.raises(InputError, match=r"Unknown encoder with explicit weights 'inception'"):
        load_encoders("inception:clean", EncoderOptions(device="cpu"), {**files, "inception": tmp_path / "b.pth"})


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("hf:a/b?output=x&output=y", "expected each setting once, as output=VALUE; got 'output=y'"),
        ("hf:a/b?output=", "expected each setting once, as output=VALUE; got 'output='"),
        ("hf:a/b?output", "got 'output'"),
        ("hf:a/b?outptu=x", "Unknown setting of 'hf:a/b.outptu=x' 'outptu'; did you mean 'output'"),
        ("hf:?output=x", "names nothing after 'hf':"),
    ],
)
def test_settings_of_an_open_ended_name(name, sentence):
    assert parse_open_name("hf:a/b?output=x", ("output",)) == ("a/b", {"output": "x"})
    with pytest.raises(InputError, match=sentence):
        parse_open_name(name, ("output",))


@pytest.mark.parametrize("allow", [True, False])
def test_tf32_is_off_unless_asked_in_cudnn_too(stub_family, monkeypatch, allow):
    calls = []
    monkeypatch.setattr(runtime, "set_tf32", calls.append)
    load_encoder("inception", tf32=allow)
    assert calls == [allow]


def test_a_bundle_is_not_one_encoder():
    with pytest.raises(InputError, match=r"'fdr6' is a bundle.*inception:fdloss, convnext"):
        load_encoder("fdr6")


def test_an_unknown_name_and_an_unknown_kind_are_one_sentence():
    with pytest.raises(InputError, match="Unknown encoder 'incepton'; did you mean 'inception'"):
        load_encoder("incepton")
    with pytest.raises(InputError, match=r"callable from images to \[B, D\]; got int"):
        load_encoder(3)


# --- callables -----------------------------------------------------------------------------------------------------


def test_an_encoder_is_passed_through():
    encoder = load_encoder(mean_colour, device="cpu")
    assert isinstance(encoder, AbstractEncoder)
    assert as_encoder(encoder, EncoderOptions()) is encoder


def test_a_function_is_wrapped_and_never_cached():
    encoder = load_encoder(mean_colour, device="cpu")
    assert torch.equal(encoder(IMAGES)["features"], IMAGES.mean((2, 3)))
    assert encoder.spec.name == "callable:mean_colour"
    assert (encoder.spec.weights, encoder.is_cacheable) == ("unknown", False)


def test_a_module_runs_in_eval_mode_and_is_known_by_its_weights():
    module = Pixels().train()
    encoder = load_encoder(module)
    assert torch.equal(encoder(IMAGES)["features"], encoder(IMAGES)["features"])
    assert encoder.is_cacheable
    assert encoder.spec.hash == load_encoder(Pixels()).spec.hash
    assert encoder.spec.hash != load_encoder(Pixels(seed=1)).spec.hash
    assert encoder.spec.hash != load_encoder(Pixels(width=6)).spec.hash


def test_a_module_with_other_code_is_another_encoder():
    class Other(Pixels):
        def forward(self, images):
            return -super().forward(images)

    Other.__qualname__, Other.__module__ = Pixels.__qualname__, Pixels.__module__
    assert load_encoder(Pixels()).spec.weights != load_encoder(Other()).spec.weights


def test_a_module_of_unknown_source_is_not_cached():
    space: dict = {"torch": torch}
    exec("class Typed(torch.nn.Module):\n    def forward(self, x):\n        return x.mean((2, 3))", space)
    space["Typed"].__module__ = "__main__"
    assert not load_encoder(space["Typed"]()).is_cacheable


def test_a_spec_or_a_name_of_ones_own_is_used():
    def named(images):
        return images.mean((2, 3))

    named.name = "colour"
    assert load_encoder(named, device="cpu").spec.name == "colour"
    spec = EncoderSpec("mine", "callable", "m", "v1", "features", 3, 0, "none", (0.0,) * 3, (1.0,) * 3)
    named.spec = spec
    encoder = load_encoder(named, device="cpu")
    assert encoder.spec == spec
    assert encoder.is_cacheable
    named.spec = replace(spec, weights="v2")
    assert load_encoder(named, device="cpu").spec.hash != encoder.spec.hash


@pytest.mark.parametrize(
    "wrong", [lambda x: x, lambda x: x.mean((2, 3)).tolist(), lambda x: x.mean((2, 3))[:1], lambda x: x.mean()]
)
def test_other_returns_are_one_sentence(wrong):
    with pytest.raises(InputError, match=r"must make a tensor \[B, D\]"):
        load_encoder(wrong, device="cpu")(IMAGES)


@pytest.mark.parametrize(
    ("images", "sentence"),
    [(IMAGES[:, :1], r"got \[4, 1, 8, 8\]"), ((IMAGES * 255).byte(), "divide uint8 images by 255"), ("x", "got str")],
)
def test_other_images_are_one_sentence(images, sentence):
    with pytest.raises(InputError, match=sentence):
        load_encoder(mean_colour, device="cpu")(images)


def test_gradients_flow_through_a_module():
    images = IMAGES.clone().requires_grad_()
    load_encoder(Pixels())(images)["features"].sum().backward()
    assert images.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("Inception", "inception"),
        ("DINOv2:DGM", "dinov2:dgm"),
        ("FDR6", "fdr6"),
        ("TIMM:ResNet50.a1_in1k", "timm:ResNet50.a1_in1k"),
        ("Random:7", "random:7"),
        ("export:My/Net.pt2", "export:My/Net.pt2"),
        ("nothing", "nothing"),
    ],
)
def test_names_are_found_in_any_case(typed, meant):
    assert canonical_name(typed) == meant


def test_a_name_in_another_case_is_the_same_encoder():
    assert load_encoder("Random").spec == load_encoder("random").spec
    assert parse_encoders("Random,random,RANDOM:1") == ["random", "random:1"]


def test_plug_ins_that_differ_in_case_alone_stay_apart(monkeypatch):
    monkeypatch.setattr(registry, "_registered", {"MyNet": lambda: Pixels(), "mynet": lambda: Pixels(7)})
    assert [canonical_name(name) for name in ("MyNet", "mynet")] == ["MyNet", "mynet"]


def test_a_weight_file_in_the_options_is_that_of_the_only_encoder(stub_family, tmp_path):
    options = EncoderOptions(weights=tmp_path / "a.pth")
    load_encoders("inception:clean", options)
    assert [given.weights for _, given in stub_family] == [tmp_path / "a.pth"]
    for several in ("inception,random", [lambda images: images.flatten(1)]):
        with pytest.raises(InputError, match=r"is the file of one encoder that is called by its name"):
            load_encoders(several, options)
