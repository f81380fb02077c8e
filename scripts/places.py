"""Where in a decoder layer magnitudes are looked at, and the columns that say so."""

import pyarrow as pa

from scripts.table import column

PLACES = {
    "attention": "input of the projections to queries, keys and values",
    "o_proj": "input of the projection that ends the attention",
    "mlp": "input of the projections that begin the MLP, of experts that of all",
    "down_proj": "input of the projection that ends the MLP; not of experts among which a router chooses",
    "keys_before_bias": "keys as their projection would give them without its bias, if it has one",
    "keys_before_rope": "keys with the bias, behind a norm of them, if there is one",
    "keys": "keys as they are cached, behind RoPE",
    "values": "values as they are cached",
}
COLUMNS = [
    column("model", pa.string(), "name of a file in config/models/"),
    column("corpus", pa.string(), "name in the study's config"),
    column("layer", pa.int64(), "number of the decoder layer, from 0"),
    column("place", pa.string(), "; ".join(f"{name}: {meaning}" for name, meaning in PLACES.items())),
]
