"""What a GPU would get of every scheme: the plugin's forward, traced whole, and looked at with fake CUDA tensors.

Dynamo traces what the plugin does for a layer's linear inputs, attention and key norm; the graphs must hold no
constructor and no graph break. Run once more on fake tensors of a GPU, which need none, they must hold no tensor on the
CPU and no copy between devices. The plugin's own tensors must be made on the device that the model is made on.
"""

import json
from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
import torch
import yaml
from torch import fx, nn
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from scripts.fakequant import plugin
from scripts.fakequant.kronecker import balanced
from tests.conftest import ROOT

HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, HEAD_DIM, TOKENS = 256, 8 * 224, 8, 2, 64, 5
WIDTHS = {"qkv_proj": HIDDEN, "gate_up_proj": HIDDEN, "o_proj": HEADS * HEAD_DIM, "down_proj": INTERMEDIATE}
SIZES = [HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM]
CUDA = torch.device("cuda:0")
# What makes a tensor of nothing: in a CUDA graph it is made anew for each token, or cannot be captured at all.
CONSTRUCTORS = ("ones", "zeros", "full", "empty", "arange", "eye", "tensor", "scalar_tensor", "kron", "linspace")


def schemes() -> dict[str, tuple[dict[str, Any], bool]]:
    """What the engine is told of every scheme that it rounds for, and whether keys have a norm: each way once.

    The names are of all schemes that are served so.
    """
    found: dict[str, tuple[list[str], dict[str, Any], bool]] = {}
    for quantizer, entry in yaml.safe_load((ROOT / "config/quantizers.yaml").read_text(encoding="utf-8")).items():
        module = import_module(f"scripts.quantize.{quantizer}")
        for scheme, own in entry["schemes"].items():
            settings = entry.get("defaults", {}) | own
            if quantizer == "vllm" or not settings.keys() & {"activation_bits", "kv_bits"}:
                continue
            for normed in (False, True) if quantizer == "kvquant" else (False,):
                named = {"normed": normed} if quantizer == "kvquant" else {}
                served = module.served_settings(settings, **named)
                key = json.dumps([quantizer, served, normed])
                found.setdefault(key, ([], served, normed))[0].append(f"{quantizer}/{scheme}")
    return {" ".join(names): (served, normed) for names, served, normed in found.values()}


SCHEMES = schemes()


def learned(row_groups: int) -> dict[str, torch.Tensor]:
    """Transforms and clips of a layer, of the shapes that scripts/fakequant/settings.py describes."""
    tensors = {name: torch.eye(HEAD_DIM) for name in ("heads.query", "heads.key")}
    tensors |= {name: torch.ones(1, 2) for name in ("heads.key_clip", "heads.value_clip")}
    for place, width in WIDTHS.items():
        groups = row_groups if place in plugin.ROW_PARALLEL else 1
        left, right = balanced(width // groups)
        if place == "o_proj":
            left = HEADS // groups
        else:
            tensors[f"{place}.right"] = torch.ones(groups, right, right)
        tensors |= {f"{place}.left": torch.ones(groups, left, left), f"{place}.clip": torch.ones(groups, 2)}
    return {f"0.{name}": tensor for name, tensor in tensors.items()}


class Layer(nn.Module):
    """What the plugin is given of vLLM's layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.input_size, self.head_size = width, HEAD_DIM
        self.num_heads, self.num_kv_heads, self.num_kv_head_replicas = HEADS, KV_HEADS, 1
        self.register_buffer("weight", torch.ones(sum(SIZES), width))

    def forward(self, *heads: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return heads


class Norm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ones(HEAD_DIM))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight


@pytest.fixture(autouse=True)
def one_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    """One process that serves in float32 or bf16, and a matrix product in place of vLLM's choice of one."""
    monkeypatch.setattr(plugin, "get_tensor_model_parallel_world_size", lambda: 1)
    monkeypatch.setattr(plugin, "get_tensor_model_parallel_rank", lambda: 0)
    base = plugin.UnquantizedLinearMethod
    monkeypatch.setattr(base, "apply", lambda _, layer, x, bias=None: nn.functional.linear(x, layer.weight, bias))
    monkeypatch.setattr(base, "process_weights_after_loading", lambda *_: None)
    monkeypatch.delenv("TORCHDYNAMO_DISABLE", raising=False)  # scripts/quantize/gptq.py turns it off
    monkeypatch.setattr(torch._dynamo.config, "disable", False)


def forwards(settings: dict[str, Any], *, normed: bool) -> dict[str, tuple[Callable, list[torch.Tensor], Any]]:
    """What the plugin makes of a block's layers, by place: function, inputs, and what holds tensors of its own."""
    config = plugin.FakeQuantConfig(settings)
    keys = KV_HEADS * HEAD_DIM
    with torch.device("cpu"):  # as files are read
        grids = {"0.scale": torch.ones(keys), "0.zero": torch.zeros(keys)}
        config._files = {plugin.TRANSFORMS: learned(settings.get("row_groups", 1)), plugin.KEY_GRIDS: grids}
    found = {}
    for place, width in WIDTHS.items():
        layer = Layer(width)
        grid = config._key_grid(layer, 0) if place == "qkv_proj" and "keys_before_rope" in settings else None
        if grid and normed:
            plugin.round_key_norm(grid, settings["keys_before_rope"]["bits"], HEAD_DIM)
            parent = nn.Module()
            parent.k_norm = Norm()
            found["k_norm"] = parent.k_norm.forward, [torch.ones(TOKENS, KV_HEADS, HEAD_DIM)], parent.k_norm
            grid = None
        factors = plugin.hadamard_at(settings, place, width // settings.get("row_groups", 1))
        method = plugin.FakeQuantLinear(place, settings, grid, factors | config._learned(0, place))
        method.process_weights_after_loading(layer)
        bias = torch.ones(sum(SIZES))
        found[place] = lambda x, m=method, i=layer, b=bias: m.apply(i, x, b), [torch.ones(TOKENS, width)], method
    attention = Layer(1)
    config._round_attention(attention, "model.layers.0.self_attn.attn")
    heads = [torch.ones(TOKENS, size) for size in SIZES]
    return found | {"heads": (attention.forward, heads, attention.forward)}


def traced(function: Callable, inputs: list[torch.Tensor]) -> tuple[fx.GraphModule, list[torch.Tensor]]:
    """The one graph of a function, and its inputs: those given and the tensors that it holds."""
    graphs = []

    def record(graph: fx.GraphModule, examples: list[torch.Tensor]) -> Callable:
        graphs.append((graph, examples))
        return graph.forward

    torch.compiler.reset()
    with torch.no_grad():
        torch.compile(function, backend=record, fullgraph=True, dynamic=False)(*inputs)
    assert len(graphs) == 1
    return graphs[0]


def constructors(graph: fx.GraphModule) -> list[str]:
    """Nodes that make a tensor of nothing, or hold one that Dynamo took for a constant."""
    names = [str(getattr(node.target, "__name__", node.target)) for node in graph.graph.nodes if "call" in node.op]
    constants = [node.target for node in graph.graph.nodes if node.op == "get_attr"]
    bare = [name.split(".")[0].removeprefix("new_").removesuffix("_like") for name in names]
    return [name for name in bare if name in CONSTRUCTORS] + constants


class Watch(TorchDispatchMode):
    """Names operations that see or give a tensor which is not on the GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.operations, self.elsewhere = 0, []

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        given = operation(*arguments, **(keywords or {}))
        self.operations += 1
        values = torch.utils._pytree.tree_leaves((arguments, keywords, given))
        if any(isinstance(x, torch.Tensor) and x.device.type != CUDA.type for x in values):
            self.elsewhere.append(str(operation))
        return given


def off_the_gpu(graph: fx.GraphModule, inputs: list[torch.Tensor]) -> tuple[int, list[str]]:
    """Operations of the graph on fake tensors of a GPU, and those that are not on it all."""
    with torch.no_grad():
        graph = make_fx(graph)(*inputs)  # in torch's basic operations: a GPU's tensors cannot be sliced without one
    assert constructors(graph) == []
    with FakeTensorMode(), Watch() as watch, torch.no_grad():
        graph(*(torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=CUDA) for x in inputs))
    return watch.operations, watch.elsewhere


@pytest.mark.parametrize("names", SCHEMES)
def test_a_gpu_gets_one_graph_without_constructors_or_copies(names: str):
    settings, normed = SCHEMES[names]
    operations = 0
    for place, (function, inputs, _) in forwards(settings, normed=normed).items():
        graph, held = traced(function, inputs)
        assert constructors(graph) == [], place
        count, elsewhere = off_the_gpu(graph, held)
        assert elsewhere == [], place
        operations += count
    assert operations > 10


def tensors_of(holder: Any) -> list[torch.Tensor]:
    """All that the plugin holds for a place: a method, a module, or a closure."""
    if isinstance(holder, plugin.FakeQuantLinear):
        return [*holder.tensors.values(), *(holder.key_grid or ())]
    if isinstance(holder, nn.Module):
        return list(holder.buffers())
    cells = dict(zip(holder.__code__.co_freevars, (cell.cell_contents for cell in holder.__closure__), strict=True))
    return list(cells["tensors"].values())


@pytest.mark.parametrize("names", SCHEMES)
def test_the_plugins_tensors_are_made_where_the_model_is(names: str):
    settings, normed = SCHEMES[names]
    with FakeTensorMode(allow_non_fake_inputs=True), torch.device(CUDA):
        made = forwards(settings, normed=normed)
    held = {place: tensors_of(holder) for place, (_, _, holder) in made.items()}
    assert {x.device for tensors in held.values() for x in tensors} <= {CUDA}
    needed = {"quarot": ["heads"], "flatquant": [*WIDTHS, "heads"], "kvquant": ["k_norm" if normed else "qkv_proj"]}
    assert all(held[place] for place in needed.get(names.split("/", maxsplit=1)[0], ()))


def test_what_is_made_or_copied_in_the_forward_is_seen():
    """The Hadamard matrix that was once built in the graph, and a constant left on the CPU."""

    def built(x: torch.Tensor) -> torch.Tensor:
        matrix = torch.kron(torch.ones(2, 2), torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64))
        return x @ matrix.to(x.dtype).to(x.device)

    graph, _ = traced(built, [torch.ones(3, 4)])
    assert {"ones", "tensor", "kron"} <= set(constructors(graph))

    def onto_the_cpu(x: torch.Tensor) -> torch.Tensor:
        return torch.ops.aten._to_copy(x, device=torch.device("cpu"))

    graph, held = traced(onto_the_cpu, [torch.ones(3, 4)])
    assert off_the_gpu(graph, held)[1] == ["aten._to_copy.default"]

    def broken(x: torch.Tensor) -> torch.Tensor:
        return x * x.sum().item() if x.sum() > 0 else x

    with pytest.raises(Exception, match=r"(?i)data-dependent|graph break"):
        traced(broken, [torch.ones(3, 4)])
