"""What jobs ask for follows from the facts of the models; what no machine could hold is refused with the sum."""

import pytest
import yaml

from scripts.run.config import load
from scripts.run.errors import UserError
from scripts.run.read import read_models
from scripts.run.resources import (
    cores,
    disk_mb,
    generate_gpus,
    generate_mb,
    generate_minutes,
    quantize_gb,
    quantize_gpu_minutes,
    quantize_gpus,
    quantize_minutes,
    sequence_gb,
    sizes,
    weight_gb,
)
from tests.bench.learning import SETTINGS, peak
from tests.conftest import ROOT, TINY_STUDY, Copy

TOKENS = 32768
CORPUS = {"sequences": 128, "length": 2048}
FLATQUANT = {"bits": 4, "activation_bits": 4, "kv_bits": 4, "epochs": 15, "batch_size": 4}
GPUS = {  # model → GPUs of 40, 80 and 141 GB that answer the study's benchmarks, any scheme without row groups
    "r1-qwen-1.5b": (1, 1, 1),
    "r1-qwen-7b": (1, 1, 1),
    "r1-qwen-14b": (2, 1, 1),
    "r1-qwen-32b": (8, 4, 2),
    "r1-llama-8b": (2, 1, 1),
    "r1-llama-70b": (8, 8, 4),
    "qwq-32b": (8, 4, 2),
    "qwen3-8b": (2, 1, 1),
}
MODELS = {name: facts for name, facts in read_models().items() if name in GPUS}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("position", "gpu_gb"), list(enumerate((40, 80, 141))))
def test_gpus_of_the_eight_models(model: str, position: int, gpu_gb: int):
    facts = MODELS[model]
    gpus = generate_gpus(facts, {}, TOKENS, gpu_gb)
    assert gpus == GPUS[model][position]
    # The sum anew, by hand: weights in bf16, a cache that replicates heads, 4 GB per GPU, 90 % of the memory.
    cache = 2 * facts["layers"] * max(facts["kv_heads"], gpus) * facts["head_dim"] * 2 * TOKENS
    assert (2 * facts["parameters"] + 4 * cache + 4e9 * gpus) / 1e9 <= 0.9 * gpus * gpu_gb
    assert facts["heads"] % gpus == 0
    assert quantize_gpus(facts, "gptq", {"bits": 4}, CORPUS, gpu_gb) == 1


def test_the_hessians_of_all_experts_are_held_at_once():
    """128 experts, each with two of 2,048 channels and one of 768, and what attention adds to the estimate."""
    facts = read_models()["qwen3-30b-a3b-thinking-2507"]
    _, work, _ = quantize_gb(facts, "gptq", {"bits": 4}, CORPUS)
    assert work == pytest.approx(128 * 4 * (2 * 2048**2 + 768**2) / 1e9, rel=0.05)
    assert quantize_gpus(facts, "gptq", {"bits": 4}, CORPUS, 40) == 1


def test_only_weights_have_a_hessian_and_only_what_calibrates_keeps_layers():
    facts = MODELS["r1-llama-70b"]
    with pytest.raises(UserError, match=r"19\.7 GB for the Hessian"):
        quantize_gpus(facts, "quarot", {"bits": 4}, CORPUS, 20)
    assert quantize_gpus(facts, "kvquant", {"kv_bits": 4}, CORPUS, 20) == 1
    assert disk_mb(facts, {"corpus": "plain"}) - 100 == pytest.approx(2 * (disk_mb(facts, {}) - 100), abs=2)


def test_what_is_not_calibrated_asks_for_no_gpu():
    """Round to nearest, MXFP4, QuaRot's cache, and linking the baseline: the CPU does them."""
    config = load(yaml.safe_load((ROOT / "config/paper.yaml").read_text(encoding="utf-8")), ["config/paper.yaml"])
    gpus = {s: quantize_gpus(*config.quantizing(m, s), 80) for m, s in config.cells("paper")}
    assert {s for s, count in gpus.items() if not count} == {
        "none/full",
        "quarot/kv4",
        "quarot/kv3",
        "mxfp4/w4a4kv4-r8",
    }
    assert quantize_gpu_minutes(MODELS["r1-llama-70b"], "rtn", {"bits": 4}, None) == 0
    assert quantize_minutes(MODELS["r1-llama-70b"], "rtn", {"bits": 4}, None) == 60


def test_learning_has_estimates_of_its_own():
    """It took 3.5 to 5.3 hours for the 1.5B model; the batch of one GPU of 80 GB holds the 70B model's layer."""
    small, large = MODELS["r1-qwen-1.5b"], MODELS["r1-llama-70b"]
    assert quantize_minutes(small, "flatquant", FLATQUANT, CORPUS | {"length": 4096}) > 5.3 * 60
    twice = quantize_gpu_minutes(small, "flatquant", FLATQUANT | {"epochs": 30}, CORPUS)
    assert twice == 2 * quantize_gpu_minutes(small, "flatquant", FLATQUANT, CORPUS)
    assert quantize_gpus(large, "flatquant", FLATQUANT, CORPUS, 80) == 1
    with pytest.raises(UserError, match=r"27\.3 GB for a layer .* 17\.1 GB for a batch"):
        quantize_gpus(large, "flatquant", FLATQUANT, CORPUS, 40)


@pytest.mark.parametrize("shape", [(256, 1024, 2, 64), (512, 1024, 2, 256)])
def test_what_learning_holds_is_what_it_is_estimated_to_hold(shape: tuple[int, int, int, int]):
    hidden, intermediate, _, length = shape
    parameters, most = peak(*shape)
    model = {
        "parameters": parameters, "layers": 1, "dtype": "bfloat16", "hidden_size": hidden,
        "intermediate_size": intermediate,
    }  # fmt: skip
    layer, work, _ = quantize_gb(model, "flatquant", SETTINGS, {"sequences": SETTINGS["batch_size"], "length": length})
    assert layer + work == pytest.approx(most / 1e9, rel=0.1)


def test_every_model_of_the_study_is_in_the_table():
    assert MODELS.keys() == GPUS.keys()


def test_row_groups_bound_the_gpus():
    """The study's four row groups keep a 32B model on four GPUs of 40 GB, which hold it, but tightly."""
    facts = MODELS["r1-qwen-32b"]
    assert [generate_gpus(facts, {"row_groups": groups}, TOKENS, 40) for groups in (4, 8)] == [4, 8]
    with pytest.raises(UserError, match=r"65\.5 GB for weights .* = 107\.9 GB, but 2 × 40 GB × 0\.9 = 72"):
        generate_gpus(facts, {"row_groups": 2}, TOKENS, 40)


def test_heads_bound_the_gpus():
    assert sizes(MODELS["r1-qwen-7b"], {}) == [1, 2, 4]  # 28 heads
    assert sizes(MODELS["r1-qwen-1.5b"], {}) == [1, 2, 4]  # 12 heads, 2 KV heads: replicated beyond 2


def test_the_cache_of_one_sequence():
    facts = MODELS["r1-llama-70b"]
    assert sequence_gb(facts, TOKENS, 8) == pytest.approx(10.74, abs=0.01)  # 2 × 80 layers × 8 × 128 × 2 bytes × 32768
    assert sequence_gb(facts, TOKENS, 16) == 2 * sequence_gb(facts, TOKENS, 8)
    assert weight_gb(facts) == pytest.approx(141.1, abs=0.05)


def test_more_seeds_benchmarks_and_rounding_take_longer_and_gpus_less():
    facts = MODELS["r1-qwen-32b"]
    suite = {"benchmarks": ["a", "b"], "seeds": [1, 2, 3], "max_model_len": TOKENS}
    minutes = generate_minutes(facts, {}, suite, 4)
    assert generate_minutes(facts, {}, suite | {"seeds": [1]}, 4) < minutes
    assert generate_minutes(facts, {}, suite, 8) < minutes
    assert generate_minutes(facts, {"kv_bits": 4}, suite, 4) > minutes


def test_host_memory_and_cores_grow_with_the_model():
    small, large = MODELS["r1-qwen-1.5b"], MODELS["r1-llama-70b"]
    assert (cores(small, 1), cores(large, 8)) == (2, 32)
    assert generate_mb(small, 1) < 8000
    assert 141_000 < generate_mb(large, 8) < 200_000


def test_what_no_machine_holds_is_refused_when_parsed(copy: Copy):
    """The sum is shown, before any work; GPUs of a size that the profile names hold it."""
    suite = TINY_STUDY["suites"]["arithmetic"] | {"max_model_len": TOKENS}
    grid = [{"models": ["r1-llama-70b"], "schemes": ["none/full", "quarot/w8a8kv8"]}]
    studies = {"big": {"suites": ["arithmetic"], "grid": grid}}
    corpora = {"reasoning": TINY_STUDY["corpora"]["plain"]}
    copy.write_config({"studies": studies, "suites": {"arithmetic": suite}, "corpora": corpora})
    done = copy.snakemake("--dry-run")
    assert done.returncode != 0
    assert "studies.big.grid: r1-llama-70b with quarot/w8a8kv8 needs 141.1 GB for weights" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert copy.snakemake("--dry-run", "--config", "gpu_memory_gb=141").returncode == 0


@pytest.mark.parametrize("profile", ["slurm", "workstation"])
def test_no_profile_names_a_site(profile: str):
    """What only one site knows stands behind a #, and no rule knows a scheduler."""
    settings = yaml.safe_load((ROOT / f"profiles/{profile}/config.yaml").read_text())
    assert not [word for word in ("account", "partition", "constraint", "qos", "gpu_model") if word in str(settings)]
    assert "slurm" not in "".join(path.read_text() for path in (ROOT / "rules").glob("*.smk"))
