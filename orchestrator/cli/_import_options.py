"""Declare the options of `import-weights`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli._option_types import Debug, find_example
from orchestrator.cli.error_handling import run_command

Checkpoint = Annotated[
    Path, typer.Argument(help="Checkpoint: .pth, .pt, .bin or .ckpt of PyTorch, or .safetensors.")
]
NetworkName = Annotated[
    str, typer.Option("--network", help="Name of the network, as for student.name.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Setting of the network, such as width=8, or of the configuration, such as "
        "data.name=CIFAR100; repeatable.",
    ),
]
DataConfig = Annotated[
    Path | None,
    typer.Option(
        "--config",
        callback=find_example,
        help="Configuration (YAML) with the data; with data, the accuracy on the validation "
        "part is reported.",
    ),
]
Target = Annotated[
    Path | None, typer.Option("--to", help="New file; default: FILE with the suffix .safetensors.")
]
Matching = Annotated[
    str, typer.Option("--match", help="Match tensors by their names, or by order and shape.")
]
Key = Annotated[
    str | None,
    typer.Option(
        "--from",
        help="Key of the state dict in the file, or prefix of its names; default: a moving "
        "average (ema), then state_dict, model_state_dict, model, or the only one.",
    ),
]
Classes = Annotated[
    int | None,
    typer.Option(
        "--classes", min=1, help="Number of classes; default: that of the classifier in FILE."
    ),
]
ClassNames = Annotated[
    Path | None,
    typer.Option(
        "--class-names",
        help="Text file with the name of a class per line, for names in teacher.classes.",
    ),
]
ImageSize = Annotated[
    int | None,
    typer.Option(
        "--image-size",
        min=1,
        help="Side of the images in pixels; default: that of the data, else 32 or 224.",
    ),
]
Channels = Annotated[
    int | None,
    typer.Option(
        "--channels",
        min=1,
        help="Channels of the images; default: those of the data, else of FILE.",
    ),
]
DataStore = Annotated[
    str,
    typer.Option(
        "--store", help="Folder or URI (s3://, gs://, file://) of the data and the accuracy."
    ),
]


def import_weights(
    file: Checkpoint,
    network: NetworkName,
    set_: Settings = None,
    config: DataConfig = None,
    to: Target = None,
    match: Matching = "names",
    from_: Key = None,
    classes: Classes = None,
    class_names: ClassNames = None,
    image_size: ImageSize = None,
    channels: Channels = None,
    store: DataStore = "runs",
    debug: Debug = False,
) -> None:
    """Convert a checkpoint of another program to weights of a network of this program."""
    with run_command(debug):
        from orchestrator.cli.import_weights import ImportOptions
        from orchestrator.cli.import_weights import import_weights as run

        sys.exit(
            run(
                ImportOptions(
                    file=file,
                    network=network,
                    pairs=set_ or [],
                    config=config,
                    classes=classes,
                    class_names=class_names,
                    match=match,
                    key=from_,
                    image_size=image_size,
                    channels=channels,
                    to=to,
                    store=store,
                )
            )
        )
