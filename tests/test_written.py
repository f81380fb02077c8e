"""A checkpoint that is not what its quantizer states is not written: each promise broken, for each quantizer."""

import inspect
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from scripts.fakequant.mxfp4 import round_mxfp4
from scripts.models import arithmetic
from scripts.quantize import _flatquant, _layers, _written, awq, mxfp4, rtn
from scripts.quantize._store import keep, keeping
from scripts.quantize._written import Grid, check_written, lies_on_grid
from scripts.run.errors import UserError
from tests.test_agreement import QUANTIZERS, quantized
from tests.tiny import trained

ROUNDED = ["rtn/w8", "rtn/w4g32", "mxfp4/w4a4kv4", "gptq/w4g32", "awq/w4g32", "smoothquant/w8a8kv8"]
ROUNDED += ["quarot/w4a4kv4", "flatquant/w4a4kv4"]
CACHE_ONLY = ["rtn/kv4", "quarot/kv4", "kvquant/kv4"]
LAYER = "model.layers.1"
UP, BIAS, NORM = f"{LAYER}.mlp.up_proj.weight", f"{LAYER}.self_attn.k_proj.bias", f"{LAYER}.input_layernorm.weight"
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def stated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple]:
    """What each quantizer had checked, of a model in bfloat16: the arguments of `check_written`."""
    folder, found = tmp_path_factory.mktemp("written"), {}
    with mock.patch.object(_written, "check_written", wraps=check_written) as check:
        quantized(folder, trained("tiny-qwen-s").bfloat16(), [*ROUNDED, *CACHE_ONLY])
    for call in check.call_args_list:
        found[str(call.args[1].relative_to(folder))] = call.args
    return found


def one(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Tensors, Tensors], Tensors]:
    return lambda written, _: written | {name: change(written[name])}


def with_value(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: x.index_fill(0, torch.tensor([1]), value)


# By the message: what becomes of what was written, given that and the model's own tensors.
OF_ALL = {
    rf"{BIAS} was changed": one(BIAS, lambda x: x + 1),
    r"model\.embed_tokens\.weight has values that are not finite": one(
        "model.embed_tokens.weight", with_value(float("inf"))
    ),
    rf"{BIAS} is stored as torch\.float16": one(BIAS, torch.Tensor.half),
    rf"{BIAS} has the shape \[4\]": one(BIAS, lambda x: x[:4].clone()),
    rf"{NORM} is not written": lambda written, _: {name: x for name, x in written.items() if name != NORM},
    r"model\.layers\.1\.router\.weight is written": lambda written, _: (
        written | {"model.layers.1.router.weight": torch.ones(2, 2)}
    ),
}
OF_ROUNDED = {
    rf"{UP} does not lie on the scheme's grid: it was passed over": lambda written, own: written | {UP: own[UP]},
    rf"{UP} does not lie on the scheme's grid: .* or changed": one(UP, lambda x: x + 0.01 * torch.randn(x.shape)),
    rf"{UP} has values that are not finite": one(UP, with_value(float("nan"))),
    rf"{UP} has the shape": one(UP, lambda x: x[:, :32].clone()),
}
NORMS_STAY = ["rtn/w4g32", "mxfp4/w4a4kv4", "gptq/w4g32", *CACHE_ONLY]


def refused(stated: tuple, tmp_path: Path, change: Callable[[Tensors, Tensors], Tensors], message: str) -> None:
    """The checkpoint as it was is accepted, the changed one is not."""
    model, checkpoint, *rest = stated
    check_written(*stated)
    damaged = tmp_path / "damaged"
    shutil.copytree(checkpoint, damaged, ignore=shutil.ignore_patterns("packed"))
    own, written = (load_file(folder / "model.safetensors") for folder in (model, checkpoint))
    torch.manual_seed(0)
    changed = {
        name: x if x.dtype == torch.float16 else x.bfloat16().contiguous() for name, x in change(written, own).items()
    }
    save_file(changed, damaged / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=rf"{damaged}: {message}"):
        check_written(model, damaged, *rest)


def test_every_quantizer_is_looked_at(stated: dict[str, tuple]):
    assert {name.split("/")[0] for name in stated} == QUANTIZERS.keys() - {"none"}
    assert all((grid is None) == (name in CACHE_ONLY) for name, (*_, grid, _) in stated.items())


@pytest.mark.parametrize("message", OF_ALL)
@pytest.mark.parametrize("scheme", [*ROUNDED, *CACHE_ONLY])
def test_what_is_not_stated_is_refused(stated: dict[str, tuple], tmp_path: Path, scheme: str, message: str):
    refused(stated[scheme], tmp_path, OF_ALL[message], message)


@pytest.mark.parametrize("message", OF_ROUNDED)
@pytest.mark.parametrize("scheme", ROUNDED)
def test_a_weight_that_is_not_rounded_is_refused(stated: dict[str, tuple], tmp_path: Path, scheme: str, message: str):
    refused(stated[scheme], tmp_path, OF_ROUNDED[message], message)


@pytest.mark.parametrize("scheme", NORMS_STAY)
def test_norms_stay_where_nothing_is_fused(stated: dict[str, tuple], tmp_path: Path, scheme: str):
    refused(stated[scheme], tmp_path, one(NORM, lambda x: x * 2), f"{NORM} was changed")


@pytest.mark.parametrize("scheme", CACHE_ONLY)
def test_methods_of_the_cache_change_no_weight(stated: dict[str, tuple], tmp_path: Path, scheme: str):
    refused(stated[scheme], tmp_path, one(UP, lambda x: x * 2), f"{UP} was changed")


def test_a_tensor_of_the_plugin_is_finite(stated: dict[str, tuple], tmp_path: Path):
    model, checkpoint, *rest = stated["flatquant/w4a4kv4"]
    damaged = Path(shutil.copytree(checkpoint, tmp_path / "damaged"))
    [path] = damaged.rglob("*/*.safetensors")
    tensors = load_file(path)
    tensors["2.heads.key"][0, 0] = torch.inf
    save_file(tensors, path)
    with pytest.raises(UserError, match=r"2\.heads\.key in .* not finite"):
        check_written(model, damaged, *rest)


def passing_over(round_: Callable, number: int) -> Callable:
    """The function, which gives back its first argument the so-manieth time."""
    calls = iter(range(10**6))
    return lambda weight, *args, **named: weight if next(calls) == number else round_(weight, *args, **named)


@pytest.mark.parametrize(
    ("scheme", "module", "function"),
    [
        ("rtn/w4g32", rtn, "quantize_weight"),
        ("mxfp4/w4a4kv4", mxfp4, "round_mxfp4"),
        ("smoothquant/w8a8kv8", _layers, "gptq"),  # smoothed, and so changed, but not rounded
        ("quarot/w4a4kv4", _layers, "gptq"),
        ("flatquant/w4a4kv4", _flatquant, "round_weight"),
    ],
)
def test_a_quantizer_that_passes_over_one_weight_writes_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str, module: object, function: str
):
    """The last weight that is rounded: in FlatQuant after it was learned."""
    rounds = mock.Mock(wraps=getattr(module, function))
    monkeypatch.setattr(module, function, rounds)
    quantized(tmp_path / "right", trained("tiny-qwen-s"), [scheme])
    last = rounds.call_count - 1
    monkeypatch.setattr(module, function, passing_over(rounds, last))
    with pytest.raises(UserError, match=rf"wrong/{scheme}: model\.layers\.3\..*_proj\.weight does not lie on"):
        quantized(tmp_path / "wrong", trained("tiny-qwen-s"), [scheme])
    target = tmp_path / "wrong" / scheme
    assert not target.exists()
    assert not target.with_suffix(".json").exists()


def test_awq_that_forgets_a_weight_writes_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its scales are folded into it."""
    whole = awq.round_layer

    def forgetful(layer: torch.nn.Module, *arguments: object) -> Tensors:
        before = layer.mlp.up_proj.weight.data.clone()
        found = whole(layer, *arguments)
        layer.mlp.up_proj.weight.data.copy_(before)
        return found

    monkeypatch.setattr(awq, "round_layer", forgetful)
    with pytest.raises(UserError, match=r"up_proj\.weight does not lie on"):
        quantized(tmp_path, trained("tiny-qwen-s"), ["awq/w4g32"])


def test_what_fails_is_not_stored_and_its_parts_are_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """By way of the store: the job that is run again begins anew, and is right then."""
    model = tmp_path / "results/models/tiny-qwen-s"
    arithmetic.save(trained("tiny-qwen-s"), model / "checkpoint", arithmetic.RECIPES["tiny-qwen-s"])
    (model / "manifest.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("scripts.quantize._store.address", lambda *_: "entry")
    main = rtn.main.registered_commands[0].callback.__wrapped__  # without a record
    (tmp_path / "made").mkdir()
    made = {
        "model": model / "checkpoint",
        "checkpoint": Path("made/checkpoint"),
        "manifest": Path("made/manifest.json"),
    }
    entry = tmp_path / "results/store/checkpoints/entry"
    with monkeypatch.context() as broken:
        broken.setattr(rtn, "quantize_weight", lambda weight, *_: weight)  # rounds nothing at all
        with pytest.raises(UserError, match="does not lie on"):
            main(**made, settings={"bits": 4, "group_size": 32})
    assert not (entry / "manifest.json").exists()
    assert list((tmp_path / "made").iterdir()) == []
    main(**made, settings={"bits": 4, "group_size": 32})
    assert json.loads((entry / "manifest.json").read_text())["files"].keys() >= {"model.safetensors"}
    with keeping(tmp_path / "parts"):
        keep("layer0", {"x": torch.ones(1)})
        (tmp_path / "empty").mkdir()
        with (
            mock.patch.object(_written, "check_written", side_effect=UserError("wrong")),
            pytest.raises(UserError, match="wrong"),
        ):
            _written.finish(model, tmp_path / "empty", tmp_path / "no.json", None)
    assert not (tmp_path / "parts").exists()


def test_weights_that_lay_on_the_grid_before_are_accepted(tmp_path: Path):
    """Nothing changes, and nothing was passed over: rounded once more, they stay."""
    model = trained("tiny-qwen-s")
    with torch.no_grad():
        for layer in model.model.layers:
            for linear in _layers.linears(layer).values():
                linear.weight.copy_(round_mxfp4(linear.weight))
    quantized(tmp_path, model, ["mxfp4/w4a4kv4"])
    own, written = (load_file(tmp_path / name / "model.safetensors") for name in ("model", "mxfp4/w4a4kv4"))
    assert all(torch.equal(own[name], written[name]) for name in own)
    main = inspect.unwrap(mxfp4.main.registered_commands[0].callback)
    with mock.patch.object(mxfp4, "round_mxfp4", lambda weight: weight), keeping(tmp_path / "parts"):
        main(
            model=tmp_path / "model", checkpoint=tmp_path / "again", manifest=tmp_path / "again.json",
            settings={"row_groups": 2},
        )  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("bits", "group_size"), [(8, -1), (8, 32), (4, -1), (4, 128), (4, 32), (3, 32), (2, 32)])
@given(seed=st.integers(0, 10**6), scale=st.sampled_from([1e-7, 1e-4, 1.0, 300.0]))
def test_the_grid_tells_rounded_from_unrounded(dtype: torch.dtype, bits: int, group_size: int, seed: int, scale: float):
    weight = (torch.randn(8, 256, generator=torch.Generator().manual_seed(seed)) * scale).to(dtype)
    rounded = rtn.quantize_weight(weight, bits, group_size).to(dtype)
    steps = 2**bits - 1
    assert lies_on_grid(rounded, group_size, steps)
    if dtype != torch.float16 or scale > 1e-5:  # what remains of it there are few values
        assert not lies_on_grid(weight, group_size, steps)


def test_a_grid_is_as_fine_as_it_was_stated():
    weight = torch.randn(8, 256, generator=torch.Generator().manual_seed(0))
    assert not lies_on_grid(rtn.quantize_weight(weight, 4, 32), 32, 7)
    assert lies_on_grid(torch.zeros(8, 256), 32, 3)
    assert Grid(3).group_size == -1
