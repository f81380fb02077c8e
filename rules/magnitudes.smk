# A model and a corpus → the largest magnitudes of what its layers and its cache meet.


rule magnitudes:
    input:
        code="results/code/scripts.magnitudes.txt",
        manifest="results/models/{model}/manifest.json",
        model=ancient("results/models/{model}/checkpoint"),
        calibration="results/calibrate/{model}/{corpus}.parquet",
    output:
        "results/magnitudes/{model}/{corpus}.parquet",
    log:
        "results/logs/magnitudes/{model}/{corpus}.log",
    benchmark:
        "results/timings/magnitudes/{model}/{corpus}.tsv"
    threads: magnitudes_cores
    resources:
        gpu=magnitudes_gpus,
        mem_mb=magnitudes_mb,
        runtime=120,
    shell:
        "python -m scripts.run.devices {resources.gpu}"
        " scripts.magnitudes"
        " --calibration {input.calibration:q}"
        " --network {input.model:q}"
        " --output {output:q}"
        " --model {wildcards.model}"
        " --corpus {wildcards.corpus}"
        " 2> {log:q}"
