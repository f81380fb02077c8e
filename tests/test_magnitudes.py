"""Largest magnitudes of channels: those of a whole pass through the model, place by place."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn

from scripts.audit._making import making
from scripts.magnitudes import magnitudes
from scripts.report import magnitudes as table
from scripts.run.config import load
from scripts.run.errors import UserError
from tests.conftest import TINY_STUDY
from tests.test_architectures import random_model

IDS = torch.randint(5, 100, (3, 12), generator=torch.Generator().manual_seed(0))  # shorter than a window
BIASED, NORMED = ["qwen2", "glm4", "gpt_oss"], ["qwen3", "gemma3_text", "olmo3"]


def by_hand(model: nn.Module) -> dict[tuple[int, str], torch.Tensor]:
    """From one pass through the whole model with a cache of its own."""
    seen: dict[tuple[int, str], torch.Tensor] = {}

    def see(index: int, place: str, x: torch.Tensor) -> None:
        seen[index, place] = x.abs().flatten(0, -2).amax(0)

    def hook(index: int, inside: str, behind: str = "") -> Any:
        def run(_: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
            see(index, inside, inputs[0])
            if behind:
                see(index, behind, output)

        return run

    for index, layer in enumerate(model.model.layers):
        attention = layer.self_attn
        first = getattr(attention, "k_proj", None) or attention.qkv_proj
        whole = hasattr(attention, "k_proj") and not hasattr(attention, "k_norm")
        first.register_forward_hook(hook(index, "attention", "keys_before_rope" if whole else ""))
        attention.o_proj.register_forward_hook(hook(index, "o_proj"))
    cache = model(IDS, use_cache=True).past_key_values
    for index, kept in enumerate(cache.layers):
        see(index, "keys", kept.keys.transpose(1, 2).flatten(2))
        see(index, "values", kept.values.transpose(1, 2).flatten(2))
    return seen


@pytest.mark.parametrize("architecture", ["mistral", "phi3", *BIASED, *NORMED])
def test_magnitudes_are_those_of_a_pass_through_the_model(architecture: str):
    model = random_model(architecture)
    for name, parameter in model.named_parameters():
        if name.endswith("k_proj.bias"):
            nn.init.uniform_(parameter, -9, 9)
    with torch.no_grad():
        expected = by_hand(random_model_like(model, architecture))
    found = {(layer, place): torch.tensor(values) for layer, place, values in magnitudes(model, IDS.tolist(), "test")}
    for key, values in expected.items():
        torch.testing.assert_close(found[key], values, rtol=1e-4, atol=1e-5, msg=str(key))
    places = {place for _, place in found}
    assert ("keys_before_bias" in places) == (architecture in BIASED)
    assert {"keys_before_rope", "keys", "values", "attention", "o_proj"} <= places
    if architecture in BIASED:
        bias = model.model.layers[0].self_attn.k_proj.bias.detach().abs()
        grown = (found[0, "keys_before_rope"] - found[0, "keys_before_bias"]).abs()
        assert (grown <= bias + 1e-5).all()
        assert grown.max() > 1


def random_model_like(model: nn.Module, architecture: str) -> nn.Module:
    """A copy: hooks on it are not those of the other."""
    twin = random_model(architecture)
    twin.load_state_dict(model.state_dict())
    return twin


@pytest.mark.parametrize(
    ("architecture", "module", "place"),
    [
        ("mistral", "mlp.down_proj", "down_proj"), ("mistral", "mlp.up_proj", "mlp"), ("qwen3_moe", "mlp", "mlp"),
        ("gpt_oss", "mlp", "mlp"), ("glm4_moe", "mlp", "mlp"), ("qwen3_next", "mlp", "mlp"),
    ],
)  # fmt: skip
def test_magnitudes_of_mlps(architecture: str, module: str, place: str):
    model = random_model(architecture)
    seen = []
    inside = model.model.layers[1].get_submodule(module)
    handle = inside.register_forward_pre_hook(lambda _, x: seen.append(x[0].abs()))
    with torch.no_grad():
        model(IDS, use_cache=False)
    handle.remove()
    found = {key[:2]: key[2] for key in magnitudes(model, IDS.tolist(), "test")}
    torch.testing.assert_close(torch.tensor(found[1, place]), seen[0].flatten(0, 1).amax(0), rtol=1e-4, atol=1e-6)
    assert ("down_proj" in {key[1] for key in found if key[0] == 1}) == (architecture not in ("qwen3_moe", "gpt_oss"))


def test_the_table_by_hand():
    rows = [("m", 0, "keys_before_bias", [1.0, 2.0, 3.0]), ("m", 0, "keys_before_rope", [1.0, 30.0, 2.0]),
            ("n", 0, "keys_before_rope", [1.0, 1.0])]  # fmt: skip
    found = pd.DataFrame(rows, columns=["model", "layer", "place", "magnitudes"]).assign(corpus="c")
    made = table.tabulate(found, "s")
    assert made.columns.tolist() == table.SCHEMA.names
    assert made[["channels", "largest", "median", "ratio"]].to_numpy().tolist() == [
        [3, 3, 2, 1.5], [3, 30, 2, 15], [2, 1, 1, 1],
    ]  # fmt: skip
    assert made["by_bias"].fillna(0).tolist() == [0, 10, 0]
    assert table.tabulate(table.joined(()), "s").columns.tolist() == table.SCHEMA.names


def test_the_order_of_files_does_not_matter(tmp_path: Path):
    """An audit makes the table again from a record, which has its own."""
    for name in "ba":
        pd.DataFrame({"model": [name], "magnitudes": [[1.0]]}).to_parquet(tmp_path / f"{name}.parquet")
    paths = [tmp_path / f"{name}.parquet" for name in "ba"]
    assert table.joined(paths)["model"].tolist() == table.joined(paths[::-1])["model"].tolist() == ["a", "b"]


def test_an_unknown_corpus_is_refused():
    studies = {"tiny": TINY_STUDY["studies"]["tiny"] | {"magnitudes": "plane"}}
    with pytest.raises(UserError, match=r"studies.tiny.magnitudes: .*'plane'; did you mean 'plain'"):
        load(TINY_STUDY | {"studies": studies}, ["config/config.yaml"])


def test_the_paths_of_magnitudes_say_what_made_them():
    made = making("results/magnitudes/m/c.parquet")
    assert made.inputs == {"calibration": "results/calibrate/m/c.parquet", "network": "results/models/m/checkpoint"}
    assert making("results/report/s/magnitudes.parquet").several == "magnitudes"
