# A checkpoint that the engine serves with kernels of its own → how fast, on the machine at hand.


rule speed:
    input:
        code="results/code/scripts.speed.txt",
        manifest="results/quantize/{model}/{quantizer}/{scheme}/manifest.json",
        checkpoint=ancient("results/quantize/{model}/{quantizer}/{scheme}/checkpoint"),
    output:
        "results/speed/{model}/{quantizer}/{scheme}.parquet",
    log:
        "results/logs/speed/{model}/{quantizer}/{scheme}.log",
    benchmark:
        "results/timings/speed/{model}/{quantizer}/{scheme}.tsv"
    threads: speed_cores
    resources:
        gpu=speed_gpus,
        mem_mb=speed_mb,
        runtime=120,
    params:
        settings=speed_settings,
    shell:
        "python -m scripts.run.devices {resources.gpu}"
        " scripts.speed"
        " --checkpoint {input.checkpoint:q}"
        " --output {output:q}"
        " --model {wildcards.model}"
        " --quantizer {wildcards.quantizer}"
        " --scheme {wildcards.scheme}"
        " --settings {params.settings:q}"
        " 2> {log:q}"
