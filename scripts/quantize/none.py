"""The baseline: every file of the model, unchanged, as hard links."""

from scripts.manifest import write_manifest
from scripts.quantize._link import link_checkpoint
from scripts.run.stage import Input, Output, Settings, stage


@stage
def main(model: Input, checkpoint: Output, manifest: Output, settings: Settings) -> None:
    link_checkpoint(model, checkpoint)
    write_manifest(checkpoint, manifest)


if __name__ == "__main__":
    main()
