# A model, a quantizer and a scheme → a checkpoint.


rule quantize:
    input:
        code="results/code/scripts.quantize.{quantizer}.txt",
        manifest="results/models/{model}/manifest.json",
        model=ancient("results/models/{model}/checkpoint"),
        calibration=scheme_calibration,
    output:
        manifest="results/quantize/{model}/{quantizer}/{scheme}/manifest.json",
        checkpoint=directory("results/quantize/{model}/{quantizer}/{scheme}/checkpoint"),
    log:
        "results/logs/quantize/{model}/{quantizer}/{scheme}.log",
    benchmark:
        "results/timings/quantize/{model}/{quantizer}/{scheme}.tsv"
    wildcard_constraints:
        quantizer=one_of(quantizers() - {"published"}),
    threads: quantize_cores
    resources:
        gpu=quantize_gpus,
        mem_mb=quantize_mb,
        disk_mb=disk_mb,
        runtime=quantize_minutes,
    params:
        settings=scheme_settings,
    shell:
        "python -m scripts.run.devices {resources.gpu}"
        " scripts.quantize.{wildcards.quantizer}"
        " --manifest {output.manifest:q}"
        " --checkpoint {output.checkpoint:q}"
        " --model {input.model:q}"
        " --settings {params.settings:q}"
        " {input.calibration:q}"
        " 2> {log:q}"


rule quantize_published:
    input:
        code="results/code/scripts.quantize.published.txt",
        manifest="results/models/{model}/manifest.json",
        model=ancient("results/models/{model}/checkpoint"),
        published_manifest="results/published/{model}/{scheme}/manifest.json",
        published=ancient("results/published/{model}/{scheme}/checkpoint"),
    output:
        manifest="results/quantize/{model}/published/{scheme}/manifest.json",
        checkpoint=directory("results/quantize/{model}/published/{scheme}/checkpoint"),
    log:
        "results/logs/quantize/{model}/published/{scheme}.log",
    benchmark:
        "results/timings/quantize/{model}/published/{scheme}.tsv"
    resources:
        mem_mb=weights_mb,
        disk_mb=disk_mb,
        runtime=120,
    shell:
        "python -m scripts.quantize.published"
        " --manifest {output.manifest:q}"
        " --checkpoint {output.checkpoint:q}"
        " --model {input.model:q}"
        " --published {input.published:q}"
        " 2> {log:q}"
