"""Largest magnitudes of each channel that a model's linear layers and its cache meet over a corpus, layer by layer.

What the study's appendix C draws ("Quantization Hurts Reasoning?", arXiv 2504.04823): channels that stick out are what
a grid shared by all of them cannot hold. Where keys are largest before or behind their bias tells whose the outliers
are: of a bias, which is known beforehand, or of the model's activations.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pyarrow as pa
import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from scripts.places import COLUMNS, PLACES
from scripts.quantize._layers import each_layer, inputs_of
from scripts.run.stage import Input, Output, Parameter, stage
from scripts.table import column, read_rows, write_table

INPUTS = {"q_proj": "attention", "qkv_proj": "attention", "o_proj": "o_proj", "mlp": "mlp", "down_proj": "down_proj"}
SCHEMA = pa.schema(
    [*COLUMNS, column("magnitudes", pa.list_(pa.float32()), "largest magnitude of each channel over all tokens")]
)


class Largest:
    """Largest magnitude of each channel by place, over all tokens seen."""

    def __init__(self) -> None:
        self.of: dict[str, torch.Tensor] = {}

    def see(self, place: str, x: torch.Tensor) -> None:
        """`(..., channels)` of some tokens."""
        found = x.detach().float().abs().flatten(0, -2).amax(0)
        self.of[place] = torch.maximum(self.of[place], found) if place in self.of else found


class Looking:
    """In place of a cache: sees what an attention layer would keep, and keeps nothing."""

    def __init__(self, largest: Largest) -> None:
        self.largest = largest

    def update(self, keys: torch.Tensor, values: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Both `(sequences, heads, tokens, head_dim)`."""
        for place, x in {"keys": keys, "values": values}.items():
            self.largest.see(place, x.transpose(1, 2).flatten(2))
        return keys, values


@contextmanager
def projected_keys(attention: nn.Module, largest: Largest) -> Iterator[None]:
    """While the body runs, see the keys of an attention before RoPE."""
    heads, keys, projection = attention.config.num_key_value_heads, slice(None), getattr(attention, "k_proj", None)
    if projection is None:  # queries, keys and values in one
        projection, first = attention.qkv_proj, attention.config.num_attention_heads * attention.head_dim
        keys = slice(first, first + heads * attention.head_dim)
    norm = getattr(attention, "k_norm", None)

    def before(module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        if module.bias is not None:
            largest.see("keys_before_bias", nn.functional.linear(inputs[0], module.weight[keys]))
        if norm is None:
            largest.see("keys_before_rope", output[..., keys])

    def behind(_: nn.Module, __: Any, output: torch.Tensor) -> None:
        if output.dim() == 4:  # by head, in some models heads before tokens
            output = (output if output.shape[2] == heads else output.transpose(1, 2)).flatten(2)
        largest.see("keys_before_rope", output)

    handles = [projection.register_forward_hook(before)]
    handles += [norm.register_forward_hook(behind)] if norm is not None else []
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def magnitudes(
    model: PreTrainedModel, sequences: list[list[int]], label: str
) -> Iterator[tuple[int, str, list[float]]]:
    """(layer, place, largest magnitude of each channel) of every decoder layer and each of `PLACES` that it has."""
    for index, (layer, run) in enumerate(each_layer(model, sequences, label)):
        largest = Largest()

        def see(place: str, largest: Largest = largest) -> Callable[[torch.Tensor], None]:
            return lambda x: largest.see(place, x)

        with ExitStack() as seen:
            if hasattr(layer, "self_attn"):  # some layers of some models keep no keys
                for keywords in run.named:
                    keywords["past_key_values"] = Looking(largest)
                seen.enter_context(projected_keys(layer.self_attn, largest))
            for name, module in layer.named_modules():
                last = name.rpartition(".")[2]
                if last in INPUTS and ".experts." not in name:
                    seen.enter_context(inputs_of(module, see(INPUTS[last])))
            run()
        for place in PLACES:
            if place in largest.of:
                yield index, place, largest.of[place].tolist()


@stage
def main(calibration: Input, network: Input, output: Output, model: Parameter, corpus: Parameter) -> None:
    sequences = [row["input_ids"] for row in read_rows(calibration)]
    loaded = AutoModelForCausalLM.from_pretrained(network, dtype="auto").eval()
    found = magnitudes(loaded, sequences, f"magnitudes {model}/{corpus}")
    rows = [
        {"model": model, "corpus": corpus, "layer": layer, "place": place, "magnitudes": values}
        for layer, place, values in found
    ]
    write_table(output, rows, SCHEMA)


if __name__ == "__main__":
    main()
