# config/models/ → a quantized checkpoint that others made of a model, unchanged.


rule published:
    input:
        code="results/code/scripts.published.txt",
        manifest="results/models/{model}/manifest.json",
        model=ancient("results/models/{model}/checkpoint"),
        files=local_published,
    output:
        manifest="results/published/{model}/{scheme}/manifest.json",
        checkpoint=directory("results/published/{model}/{scheme}/checkpoint"),
    log:
        "results/logs/published/{model}/{scheme}.log",
    benchmark:
        "results/timings/published/{model}/{scheme}.tsv"
    localrule: True
    resources:
        mem_mb=2000,
        runtime=1440,
    params:
        settings=published_settings,
    shell:
        "python -m scripts.published"
        " --manifest {output.manifest:q}"
        " --checkpoint {output.checkpoint:q}"
        " --model {input.model:q}"
        " --settings {params.settings:q}"
        " {input.files:q}"
        " 2> {log:q}"
