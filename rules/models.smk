# config/models/ → weights and tokenizer of a model.


rule models:
    input:
        code=model_code,
        retained=retained_weights,
    output:
        manifest="results/models/{model}/manifest.json",
        checkpoint=directory("results/models/{model}/checkpoint"),
    log:
        "results/logs/models/{model}.log",
    benchmark:
        "results/timings/models/{model}.tsv"
    wildcard_constraints:
        model=one_of(models_of_source(hub=False)),
    resources:
        mem_mb=weights_mb,
        disk_mb=disk_mb,
        runtime=120,
    params:
        source=model_source,
        facts=model_facts,
    shell:
        "python -m scripts.models.{params.source}"
        " --manifest {output.manifest:q}"
        " --checkpoint {output.checkpoint:q}"
        " --model {wildcards.model}"
        " --settings {params.facts:q}"
        " {input.retained:q}"
        " 2> {log:q}"


rule models_of_hub:
    input:
        code="results/code/scripts.models.hub.txt",
    output:
        manifest="results/models/{model}/manifest.json",
        checkpoint=directory("results/models/{model}/checkpoint"),
    log:
        "results/logs/models/{model}.log",
    benchmark:
        "results/timings/models/{model}.tsv"
    wildcard_constraints:
        model=one_of(models_of_source(hub=True)),
    localrule: True
    resources:
        mem_mb=2000,
        runtime=1440,
    params:
        facts=hub_facts,
    shell:
        "python -m scripts.models.hub"
        " --manifest {output.manifest:q}"
        " --checkpoint {output.checkpoint:q}"
        " --model {wildcards.model}"
        " --settings {params.facts:q}"
        " 2> {log:q}"
