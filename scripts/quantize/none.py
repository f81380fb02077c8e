"""The baseline: every file of the model, unchanged, as hard links."""

import shutil

from scripts.quantize._link import link_checkpoint
from scripts.run.stage import Input, Output, Settings, stage


@stage
def main(model: Input, checkpoint: Output, manifest: Output, settings: Settings) -> None:
    link_checkpoint(model, checkpoint)
    shutil.copyfile(model.with_name("manifest.json"), manifest)


if __name__ == "__main__":
    main()
