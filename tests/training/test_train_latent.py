"""A latent generator is post-trained: its own weights move, its decoder stays and is kept nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import train_worlds
from latent_worlds import original_names, save_vae, tiny_imf
from safetensors.torch import load_file, save_file
from worlds import images, npz

import fdr
from fdr.generators.published.presets import PRESETS
from fdr.training import RunOptions, TrainOptions, train
from fdr.training.folder import checkpoint_path, load_checkpoint


@pytest.mark.filterwarnings("default:.*holds the trained weights and the average:fdr.errors.FdrWarning")
def test_only_the_transformer_is_trained_averaged_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(train_worlds.__file__).parent))
    monkeypatch.setitem(PRESETS, "imf-b", tiny_imf)
    vae = str(save_vae(tmp_path / "vae"))
    network = tiny_imf(vae)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.2, generator=torch.Generator().manual_seed(parameter.numel()))
    save_file(original_names(network, wraps_tokens=False), tmp_path / "imf.safetensors")
    options = TrainOptions(
        str(tmp_path / "imf.safetensors"),
        "imf-b",
        {"vae": vae},
        reps=("py:train_worlds:tiny",),
        reference=str(npz(tmp_path / "real.npz", images(40))),
        population="ema:0.9",
        fill=16,
        steps=3,
        batch_size=8,
        chunks=2,
        lr=1e-3,
        warmup_steps=0,
        ema_kimg=(0.1,),
    )
    run = tmp_path / "run"
    result = train(options, run, RunOptions(device="cpu", checkpoint_every=3, grid_every=3, grid_size=4))
    assert result.is_finished and result.skipped == 0

    before = {name: value.detach() for name, value in network.named_parameters()}
    after = load_checkpoint(checkpoint_path(run, 3))
    assert after["model"].keys() == {f"network.{name}" for name in before}
    assert after["model_ema"]["shadows"]["edm_0.1"].keys() == after["model"].keys()
    assert len(after["optimizer"]["state"]) == len(before)
    moved = [name for name, value in before.items() if not torch.equal(after["model"][f"network.{name}"], value)]
    assert "u_final_layer.linear.linear.weight" in moved and len(moved) == len(before)
    for path in run.glob("weights-*.safetensors"):
        assert load_file(path).keys() == before.keys()
    again = fdr.load_generator(run, trust=True)
    assert again.network.decoder.digest == network.decoder.digest
