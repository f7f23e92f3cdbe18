"""A TorchScript archive is checked before torch compiles it, and its graphs before any of them runs."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from processes import processor_limit
from torch import nn

from fdr.errors import WeightsError
from fdr.weights import archive_state, load_archive
from fdr.weights.export_operators import Refused
from fdr.weights.script_check import check_code

IMAGES = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
REFUSED = "runs nothing but a network's own operators"


class Net(nn.Module):
    """Text in an error, a default, constants, a list, a branch: what sound programs have."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.tail = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU())

    def forward(self, images: torch.Tensor, times: int = 2, name: str = "a") -> torch.Tensor:
        assert images.dim() == 4, f"expected images, got {images.dim()} dimensions"
        rows: list[torch.Tensor] = []
        for row in range(times):
            rows.append(self.tail(self.conv(images)).mean((2, 3)) * (row + 1))
        return torch.cat(rows, 1) if len(rows) > 1 else rows[0]


class Prints(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        print("hello")
        return images


class Saves(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if images.dim() == 9:
            torch.save(images, "ran")
        return images


class Waits(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        rounds = 0
        while rounds < 1:
            images = images / 2
            rounds = 0
        return images


class Counts(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        for _ in range(1000000000000):
            images = images / 2
        return images


class Halves(nn.Module):
    """Loops that end."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        while bool(images.abs().max() > 0.1):
            images = images / 2
        for row in range(images.shape[0]):
            if row > 2:
                break
            images = images + row
        return images


class Attends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = images.flatten(1, 2)
        return self.attention(tokens, tokens, tokens)[0].mean(1)


def save(network: nn.Module, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(network.eval()), str(path))
    return path


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return save(Net(), tmp_path_factory.mktemp("scripts") / "net.pt")


def edited(source: Path, target: Path, change: Callable[[str], str]) -> Path:
    """A copy in which the code has changed; "MARKER" in it is a file that it would write."""
    changed = False
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith(".py"):
                text = change(data.decode()).replace("MARKER", str(target.with_name("ran")))
                changed, data = changed or text != data.decode(), text.encode()
            if not name.endswith(".debug_pkl"):
                new.writestr(name, data)
    assert changed
    return target


@pytest.mark.parametrize("network", [Net(), Attends(), Halves(), nn.TransformerEncoderLayer(8, 2, 8, batch_first=True)])
def test_a_sound_script_gives_the_values_of_its_network(network: nn.Module, tmp_path: Path) -> None:
    images = IMAGES if not isinstance(network, nn.TransformerEncoderLayer) else IMAGES[:, 0]
    loaded = load_archive(save(network, tmp_path / "net.pt"))
    with torch.inference_mode():
        torch.testing.assert_close(loaded(images), network.eval()(images))


def test_a_sound_trace_gives_the_values_of_its_network(tmp_path: Path) -> None:
    network = Net().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(network, IMAGES), str(tmp_path / "net.pt"))
    with torch.inference_mode():
        torch.testing.assert_close(load_archive(tmp_path / "net.pt")(IMAGES), network(IMAGES))


def test_the_tensors_of_an_archive_are_found_by_name(sound: Path) -> None:
    torch.manual_seed(0)
    expected = Net().state_dict()
    found = archive_state(sound)
    assert found.keys() == expected.keys()
    torch.testing.assert_close(found, dict(expected))


# --- what would run while torch reads the file ------------------------------------------------------------------------

MAP = 'torch.from_file("MARKER", True, 4)'
LOOP = """
def loop() -> int:
  n = 0
  go = True
  while go:
    n = 1
    go = torch.lt(n, 2)
  return n
"""


def inside(lines: str) -> Callable[[str], str]:
    """Statements before those of the first method."""
    return lambda text: text.replace(
        "    rows = annotate", "".join(f"    {x}\n" for x in lines.split("\n")) + "    rows = annotate"
    )


def value(of: str) -> Callable[[str], str]:
    return lambda text: text.replace("times: int=2", f"times: int={of}")


AT_LOADING: dict[str, Callable[[str], str]] = {
    "a default": value(f"torch.numel({MAP})"),
    "a default without a file": value("torch.seed()"),
    "a default in a list": value("torch.numel([torch.seed()])"),
    "an endless default": lambda text: value("__torch__.loop()")(text) + (LOOP if "class Net" in text else ""),
    "a constant": lambda text: text.replace(
        "out_channels : Final[int] = 4", f"out_channels : Final[int] = torch.numel({MAP})"
    ),
    "a sum as a constant": lambda text: text.replace(
        "out_channels : Final[int] = 4", "out_channels : Final[int] = 2 + 2"
    ),
    "a state": lambda text: text.replace(
        "  def forward(self: __torch__.test",
        "  def __setstate__(self: Any, x: int) -> NoneType:\n    return None\n  def forward(self: __torch__.test",
    ).replace(
        "class Sequential(Module):\n",
        "class Sequential(Module):\n  def __setstate__(self: Any, x: int) -> NoneType:\n    return None\n",
    ),
    "a long text": inside('n = torch.len(torch.ljust("a", 3000000000, "b"))'),
    "a doubled text": inside('q = "ab"\n' + "q = torch.add(q, q)\n" * 60 + "n = torch.len(q)"),
    "a doubled tuple": inside("q0 = (1, 1)\n" + "\n".join(f"q{i + 1} = (q{i}, q{i})" for i in range(60))),
    "a doubled text in a branch": inside(
        'q = "ab"\nif True:\n' + '  q = torch.format("{}{}", q, q)\n' * 60 + "else:\n  pass"
    ),
    "an endless factorial": inside("n = torch.factorial(1000000000000000000)"),
    "a class of C++": inside('s = __torch__.torch.classes.dist_c10d.FileStore("MARKER", 1)'),
    "another letter": inside("x = 1  # \u00a0"),
    "a carriage return": inside("x = 1 # hidden\rq = torch.seed()"),
    "no program": lambda text: text + "\n)(",
    "a call at the top": lambda text: text + f"\n{MAP}\n",
    "a decorated loop": lambda text: text + "\nfor i in [1]:\n  pass\n",
}


@pytest.mark.parametrize("attack", AT_LOADING)
def test_code_that_would_run_while_it_is_read_is_refused(attack: str, sound: Path, tmp_path: Path) -> None:
    path = edited(sound, tmp_path / "bad.pt", AT_LOADING[attack])
    with processor_limit(20, attack), pytest.raises(WeightsError, match=REFUSED) as error:
        load_archive(path)
    assert not (tmp_path / "ran").exists()
    assert "\n" not in str(error.value)


def test_the_attacks_above_are_real(sound: Path, tmp_path: Path) -> None:
    """torch.jit.load itself runs the default: the file is one that would have done harm."""
    path = edited(sound, tmp_path / "bad.pt", AT_LOADING["a default"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.load(str(path))
    assert (tmp_path / "ran").exists()


# --- what would run later ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("network", "operator"), [(Prints(), "prim::Print"), (Saves(), "aten::save")])
def test_operators_that_touch_files_or_print_are_refused(
    network: nn.Module, operator: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(WeightsError, match=f"uses the operator '{operator}'.*{REFUSED}"):
        load_archive(save(network, tmp_path / "net.pt"))
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("network", [Waits(), Counts()])
def test_a_loop_that_never_ends_is_refused(network: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=f"has a loop that never ends.*{REFUSED}"):
        load_archive(save(network, tmp_path / "net.pt"))


@pytest.mark.parametrize(
    "lines",
    [
        'ops.aten.save(images, "MARKER")',
        'ops.prim.Print("hello")',
        "images.set_(images)",
        "n = torch.seed()",
        "n = torch.manual_seed(3)",
        'h = ops.profiler._record_function_enter("a")',
        "q = torch.resize_(images, [99])",
    ],
)
def test_an_operator_that_is_not_listed_is_refused(lines: str, sound: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"uses the operator|not a TorchScript archive"):
        load_archive(edited(sound, tmp_path / "bad.pt", inside(lines)))
    assert not (tmp_path / "ran").exists()


# --- archives ---------------------------------------------------------------------------------------------------------


def test_a_member_that_is_there_twice_is_refused(sound: Path, tmp_path: Path) -> None:
    path = tmp_path / "twice.pt"
    path.write_bytes(sound.read_bytes())
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr(next(name for name in archive.namelist() if name.endswith(".py")), "x")
    with pytest.raises(WeightsError, match="2 times"):
        load_archive(path)


def test_a_flipped_weight_is_refused(sound: Path, tmp_path: Path) -> None:
    data = bytearray(sound.read_bytes())
    weight = archive_state(sound)["conv.weight"].numpy().tobytes()
    data[data.index(weight) + 2] ^= 1
    (tmp_path / "flipped.pt").write_bytes(data)
    with pytest.raises(WeightsError, match="does not agree with its checksum"):
        load_archive(tmp_path / "flipped.pt")


@pytest.mark.parametrize("opcodes", [b"c__torch__.torch.classes.quantized\nConv\n", b"\x8c\x01a\x8c\x01b\x93"])
def test_objects_of_other_classes_than_a_networks_are_refused(opcodes: bytes, sound: Path, tmp_path: Path) -> None:
    """A class of C++ would read its own state; STACK_GLOBAL could hide its name."""
    path = tmp_path / "net.pt"
    with zipfile.ZipFile(sound) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, b"\x80\x02" + opcodes + b"." if name.endswith("/data.pkl") else old.read(name))
    with pytest.raises(WeightsError, match=f"holds an object of .*{REFUSED}"):
        load_archive(path)


def test_more_code_than_a_network_has_is_refused(sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fdr.weights.torchscript._MAX_CODE", 1 << 8)
    with pytest.raises(WeightsError, match=f"MiB of code.*{REFUSED}"):
        load_archive(sound)


LONG = "q = '" + "a" * 15_000 + "'"
UNREAD: dict[str, tuple[str, str]] = {
    "a default of a named argument": ("def f(*, x: int=torch.seed()) -> int:\n  return x", "which is a program"),
    "a function in a function": (
        "def f() -> int:\n  def g() -> int:\n    return 1\n  return 1",
        "inside of a function",
    ),
    "a text that is short in one branch": (
        f"def f(b: bool) -> int:\n  {LONG}\n  if b:\n    q = 'a'\n  return torch.len(torch.add(q, q))",
        "more than 20,000 parts",
    ),
    "a text that is appended to": (f"def f() -> str:\n  {LONG}\n  q += '{'b' * 15_000}'\n  return q", "20,000 parts"),
    "a text in a with": (f"def f() -> int:\n  {LONG}\n  with torch.add(q, q):\n    pass\n  return 1", "20,000 parts"),
}


@pytest.mark.parametrize("name", UNREAD)
def test_code_is_refused_before_torch_reads_it(name: str) -> None:
    text, sentence = UNREAD[name]
    with pytest.raises(Refused, match=sentence):
        check_code(text)


def test_a_script_that_was_saved_in_training_mode_is_run_in_eval_mode(tmp_path: Path) -> None:
    network = Net().train()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(network), str(tmp_path / "net.pt"))
    loaded = load_archive(tmp_path / "net.pt")
    with torch.inference_mode():
        torch.testing.assert_close(loaded(IMAGES), network.eval()(IMAGES))
