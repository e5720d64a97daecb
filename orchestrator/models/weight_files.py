"""Read a file of weights, and identify files of other formats.

Nothing is unpickled: other formats are recognised by their first bytes.
"""

import json
import shlex
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from orchestrator.core.errors import ConfigurationError
from orchestrator.core.paths import read_path
from orchestrator.core.program import code_options, program_name
from orchestrator.models.network import Network

SUFFIX = ".safetensors"
FOREIGN = (
    ".pth",
    ".pt",
    ".bin",
    ".ckpt",
    ".pkl",
    ".pickle",
    ".tar",
    ".h5",
    ".hdf5",
    ".keras",
    ".npz",
    ".onnx",
    ".pb",
    ".msgpack",
)
PICKLED = "a PyTorch checkpoint, which is a pickle and is not opened"
SAFETENSORS = "a safetensors file"
UNKNOWN = "of an unknown format"
PROVENANCE = "orchestrator.import"  # key in the metadata of an imported file, with JSON


def is_file_name(weights: str) -> bool:
    """Return whether `weights` names a file rather than published weights."""
    path = Path(weights)
    return path.suffix.lower() in (SUFFIX, *FOREIGN) or len(path.parts) > 1 or path.is_file()


def read_weights(
    weights: str, network: Network, settings: Mapping[str, Any] | None = None
) -> dict[str, Tensor]:
    """Read all tensors of a .safetensors file, by their names.

    Args:
        weights: The file; `~` is the home folder.
        network: The network that needs the weights.
        settings: The settings of the network, for the command in a message.

    Raises:
        ConfigurationError: The file does not exist, is damaged, or has another format. The message
            names the format and the command that imports it.
    """
    file = read_path(weights, "weights")
    if not file.is_file():
        raise ConfigurationError(
            f"{file} does not exist or is not a file: give a .safetensors file with weights of "
            f"{network}"
        ).with_details("weights", weights, "a file that exists")
    try:
        kind = describe_file(file)
        if kind == SAFETENSORS and file.suffix.lower() != SUFFIX:
            raise ConfigurationError(
                f"{file} is a safetensors file with another suffix: rename it to "
                f"{file.with_suffix(SUFFIX).name}"
            ).with_details("weights", weights, file.with_suffix(SUFFIX).name)
        if kind not in (SAFETENSORS, UNKNOWN) or file.suffix.lower() != SUFFIX:
            advice = _advice(file, kind, network, settings)
            raise ConfigurationError(f"{file} is {kind}: {advice}").with_details(
                "weights", weights, f"a {SUFFIX} file"
            )
        return load_file(file)
    except (SafetensorError, OSError) as error:
        reason = " ".join(str(error).split())
        raise ConfigurationError(
            f"{file} is not a complete safetensors file ({reason}): give weights of {network}"
        ).with_details("weights", weights, f"a complete {SUFFIX} file") from error


def read_class_names(file: Path) -> tuple[str, ...]:
    """Return the names of the classes that `import-weights` recorded in a file; () without any."""
    names = _read_origin(file).get("class_names")
    return tuple(map(str, names)) if isinstance(names, list) else ()


def read_recorded_inputs(file: Path) -> dict[str, Any]:
    """Return the `input_size`, `mean` and `std` that `import-weights` recorded in a file.

    Returns:
        The recorded values; empty for any other file, also for one that cannot be read.
    """
    try:
        inputs = _read_origin(file).get("inputs")
    except (SafetensorError, OSError):  # refused when the weights are read
        return {}
    return dict(inputs) if isinstance(inputs, dict) else {}


def _read_origin(file: Path) -> dict[str, Any]:
    """Return what `import-weights` recorded in a file; empty for any other file."""
    with safe_open(file, "pt") as opened:
        text = (opened.metadata() or {}).get(PROVENANCE, "{}")
    try:
        origin = json.loads(text)
    except ValueError:
        return {}
    return origin if isinstance(origin, dict) else {}


def describe_file(file: Path) -> str:
    """Return a description of a file's format from its content.

    Raises:
        OSError: The file cannot be read.
    """
    with file.open("rb") as stream:
        start = stream.read(16)
    if start.startswith(b"PK\x03\x04"):
        return _describe_archive(file)
    if start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return PICKLED
    if start.startswith(b"\x89HDF"):
        return "an HDF5 file, the format of Keras"
    if file.suffix.lower() == ".onnx":
        return "an ONNX graph"
    if start[8:9] == b"{" and 2 <= int.from_bytes(start[:8], "little") <= file.stat().st_size - 8:
        return SAFETENSORS
    return UNKNOWN


def _describe_archive(file: Path) -> str:
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError):
        return "a damaged zip archive, such as a PyTorch checkpoint that was copied only in part"
    if any("/code/" in name for name in names):
        return "a TorchScript program"
    if any(name.endswith("/data.pkl") for name in names):
        return PICKLED
    if any(name.endswith(".weights.h5") for name in names):
        return "a Keras model"
    if names and all(name.endswith(".npy") for name in names):
        return "an archive of NumPy arrays"
    return "a zip archive"


def import_command(
    file: Path, network: Network, settings: Mapping[str, Any] | None = None, options: str = ""
) -> str:
    """Return the command that converts a file to weights of a network.

    Args:
        file: The file.
        network: The network.
        settings: The settings of the network.
        options: Further options.
    """
    words = [*program_name().split(), "import-weights", str(file), "--network", network.full_name]
    for name, value in (settings or {}).items():
        words += ["--set", f"{name}={value if isinstance(value, str) else json.dumps(value)}"]
    if file.suffix.lower() == SUFFIX:
        words += ["--to", str(file.with_name(f"{file.stem}-imported{SUFFIX}"))]
    words += code_options()
    return f"{shlex.join(words)}{options}"


def _advice(file: Path, kind: str, network: Network, settings: Mapping[str, Any] | None) -> str:
    if kind == PICKLED:
        target = file.with_suffix(SUFFIX).name
        if file.suffix.lower() == SUFFIX:
            target = f"{file.stem}-imported{SUFFIX}"
        return (
            f"import its tensors with `{import_command(file, network, settings)}`, and give "
            f"{target}"
        )
    return f"give a .safetensors file, as `{program_name()} import-weights` writes it"
