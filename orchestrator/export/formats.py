"""Write and read the file formats of an exported student.

Nothing here is pickled or unpickled. `torch.export.load` unpickles members that are marked so, and
the whole of a file in the format before PyTorch 2.8. So it is not called: `load_pt2` reads a
program instead, which supports no older format, and only if the file has the members that are
written here. A program is code all the same, in either format: open programs of trusted authors
only, and safetensors from all others.
"""

import contextlib
import importlib.util
import io
import json
import logging
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from orchestrator.core.errors import ConfigurationError, PreflightError
from orchestrator.core.program import install_command, program_name
from orchestrator.models.network import Network, Shape
from orchestrator.models.weights import save_weights

if TYPE_CHECKING:
    from torch.export.pt2_archive import PT2ArchiveReader

Predictions = Callable[[Tensor], Tensor]  # images (B, C, H, W) float32, prepared, to logits (B, K)
NAME = "safetensors"  # the format of a folder without a format in its settings
SETTINGS, CARD = "settings.json", "README.md"  # written with the file of the format
NETWORK = "network"  # folder with the files that a network needs beside its name and settings
EXAMPLES = 2  # batch size of tracing: with 1, tracing would assume that batches have one image
LARGEST_BATCH = 2**16
INSTALL = (
    f"install it with `{install_command('onnx')}`, or give --format safetensors or torchexport"
)
CONFIGS = "data/weights/model_weights_config.json", "data/constants/model_constants_config.json"
# the inputs of the trace, which would be pickled
EMPTY = "data/sample_inputs/model.pt"
# members of a plain program; those with a dot are PyTorch's own notes, which are not read
PLAIN = re.compile(
    rf"models/model\.json|data/weights/weight_\d+|data/constants/tensor_\d+|archive_format|archive_version|byteorder|\.[\w./]+"
    rf"|{'|'.join(map(re.escape, (*CONFIGS, EMPTY)))}"
)


@dataclass(frozen=True)
class Format:
    """File format of an export.

    Attributes:
        file: Name of the file.
        write: Writes a network, for images of a shape, to a file.
        tolerance: Allowed difference of the logits from the student's, as a share of the largest
            logit of a batch. 0 demands equality to the bit.
        packages: Required packages beyond ours.
    """

    file: str
    write: Callable[[Network, Shape, Path], None]
    tolerance: float
    packages: tuple[str, ...] = ()

    def require(self, name: str) -> None:
        """Check that the packages of the format are installed.

        Raises:
            PreflightError: A package is missing.
        """
        missing = [
            package for package in self.packages if importlib.util.find_spec(package) is None
        ]
        if missing:
            raise PreflightError(
                f"--format {name} needs {', '.join(missing)}, which is not installed: {INSTALL}"
            ).with_details("--format", name, INSTALL)


class Logits(nn.Module):
    """Student that returns its logits alone, (B, C, H, W) to (B, K).

    Exported programs return a tensor, not the network's output object.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of prepared images."""
        return cast("Tensor", self.network(images).logits)


def program(network: Network, shape: Shape) -> torch.export.ExportedProgram:
    """Return the student in eval mode as a program of PyTorch's own operations.

    The program takes batches of any size.
    """
    batch = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
    with _quiet():
        exported = torch.export.export(
            Logits(network).eval(), (_example(shape),), dynamic_shapes={"images": {0: batch}}
        )
    exported.example_inputs = None  # type: ignore[assignment]  # the only member that would be pickled
    return exported


def load_program(file: Path) -> Predictions:
    """Load the program in a .pt2 file.

    Raises:
        ConfigurationError: The file is damaged, or holds what may be a pickle.
    """
    from torch.export.pt2_archive._package import load_pt2  # imports torch's compiler, in 2 s

    data = read_plain(file)
    try:
        with _quiet():
            return cast(
                "Predictions", load_pt2(io.BytesIO(data)).exported_programs["model"].module()
            )
    except Exception as error:  # PyTorch defines no error of damage, and each member raises its own
        raise _unreadable(file, error) from error


def read_plain(file: Path) -> bytes:
    """Return the bytes of a .pt2 file in which nothing is pickled.

    The reader that will open the file lists its members: another reader may see other members in
    the same bytes.

    Raises:
        ConfigurationError: The file is damaged or of another format, or a member would be unpickled
            or run as machine code.
    """
    from torch.export.pt2_archive import PT2ArchiveReader  # imports torch's compiler, in 2 s

    try:
        data = file.read_bytes()
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            # PyTorch's reader refuses such members without a reason
            outside = [name for name in archive.namelist() if "/" not in name]
        odd = [] if outside else _odd(PT2ArchiveReader(io.BytesIO(data)))
    except Exception as error:  # as above
        raise _unreadable(file, error) from error
    if outside or odd:
        if outside:
            reason = "it is not in the format of this PyTorch"
        else:
            reason = f"its member {odd[0]} is pickled or unknown"
        raise ConfigurationError(
            f"{file} is not opened, because {reason}: export it again with "
            f"`{program_name()} export --format torchexport`"
        ).with_details(
            str(file),
            (outside or odd)[0],
            "members of the format of this PyTorch" if outside else "members that are not pickled",
        )
    return data


def _odd(archive: "PT2ArchiveReader") -> list[str]:
    """Return all that is not plain in an archive: members, and weights marked as pickled."""
    names = archive.get_file_names()
    odd = [name for name in names if not PLAIN.fullmatch(name)] + [EMPTY] * bool(
        archive.read_bytes(EMPTY)
    )
    configs = [json.loads(archive.read_bytes(name)) for name in CONFIGS]
    return odd + [
        name
        for config in configs
        for name, entry in config["config"].items()
        if entry["use_pickle"] is not False
    ]


def load_onnx(file: Path) -> Predictions:
    """Load the graph in an .onnx file; onnxruntime runs it on the CPU.

    Raises:
        ConfigurationError: The file is damaged.
        PreflightError: A package is missing.
    """
    FORMATS["onnx"].require("onnx")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(
            file.read_bytes(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime's own errors have no common ancestor
        raise _unreadable(file, error) from error
    return lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


def _write_safetensors(network: Network, shape: Shape, file: Path) -> None:
    save_weights(network, file)


def _write_program(network: Network, shape: Shape, file: Path) -> None:
    with _quiet():
        torch.export.save(program(network, shape), file)


def _write_onnx(network: Network, shape: Shape, file: Path) -> None:
    batch = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
    names = {
        "input_names": ["images"],
        "output_names": ["logits"],
        "dynamic_shapes": {"images": {0: batch}},
    }
    with _quiet(), contextlib.redirect_stdout(io.StringIO()):
        torch.onnx.export(
            Logits(network).eval(),
            (_example(shape),),
            str(file),
            dynamo=True,
            external_data=False,
            verbose=False,
            **cast(Any, names),
        )


FORMATS: dict[str, Format] = {
    "safetensors": Format("model.safetensors", _write_safetensors, 0.0),
    "torchexport": Format("model.pt2", _write_program, 1e-5),
    "onnx": Format("model.onnx", _write_onnx, 1e-4, ("onnx", "onnxscript", "onnxruntime")),
}


def _example(shape: Shape) -> Tensor:
    return torch.zeros(EXAMPLES, *shape)


def _unreadable(file: Path, error: Exception) -> ConfigurationError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return ConfigurationError(
        f"{file} is missing or damaged ({reason}): export it again with `{program_name()} export`"
    ).with_details(str(file), reason)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress warnings of tracing, which do not concern users."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
