"""Read a file of weights, and identify files of other formats.

Nothing is unpickled: other formats are recognised by their first bytes.
"""

import shlex
import zipfile
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from orchestrator.core.errors import ConfigurationError
from orchestrator.core.paths import read_path

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
CONVERT = (
    'python -c "import sys, torch, safetensors.torch as s; '
    "d = torch.load(sys.argv[1], map_location='cpu', weights_only=True); d = "
    "d.get('state_dict', d.get('model', d)); "
    "s.save_file({k: v.contiguous() for k, v in d.items() if isinstance(v, torch.Tensor)}, "
    'sys.argv[2])"'
)
PICKLED = "a PyTorch checkpoint, which is a pickle and is not opened"
SAFETENSORS = "a safetensors file"
UNKNOWN = "of an unknown format"


def is_file_name(weights: str) -> bool:
    """Return whether `weights` names a file rather than weights that torchvision publishes."""
    path = Path(weights)
    return path.suffix.lower() in (SUFFIX, *FOREIGN) or len(path.parts) > 1 or path.is_file()


def read_weights(weights: str, wanted: object) -> dict[str, Tensor]:
    """Read all tensors of a .safetensors file, by their names.

    Args:
        weights: The file; `~` is the home folder.
        wanted: Description of the weights' purpose, for the messages.

    Raises:
        ConfigurationError: The file does not exist, is damaged, or has another format. The message
            names the format and the conversion.
    """
    file = read_path(weights, "weights")
    if not file.is_file():
        raise ConfigurationError(
            f"{file} does not exist or is not a file: give a .safetensors file with weights of "
            f"{wanted}"
        ).with_details("weights", weights, "a file that exists")
    try:
        kind = describe_file(file)
        if kind == SAFETENSORS and file.suffix.lower() != SUFFIX:
            raise ConfigurationError(
                f"{file} is a safetensors file with another suffix: rename it to "
                f"{file.with_suffix(SUFFIX).name}"
            ).with_details("weights", weights, file.with_suffix(SUFFIX).name)
        if kind not in (SAFETENSORS, UNKNOWN) or file.suffix.lower() != SUFFIX:
            raise ConfigurationError(f"{file} is {kind}: {_advice(file, kind)}").with_details(
                "weights", weights, f"a {SUFFIX} file"
            )
        return load_file(file)
    except (SafetensorError, OSError) as error:
        reason = " ".join(str(error).split())
        raise ConfigurationError(
            f"{file} is not a complete safetensors file ({reason}): give weights of {wanted}"
        ).with_details("weights", weights, f"a complete {SUFFIX} file") from error


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
    if names and all(name.endswith(".npy") for name in names):
        return "an archive of NumPy arrays"
    return "a zip archive"


def _advice(file: Path, kind: str) -> str:
    if kind == PICKLED:
        if file.suffix.lower() == SUFFIX:
            target = file.with_name(f"{file.stem}-converted{SUFFIX}")
        else:
            target = file.with_suffix(SUFFIX)
        return (
            f"convert it with `{CONVERT} {shlex.quote(str(file))} {shlex.quote(str(target))}`, "
            f"which loads only tensors (also those under 'state_dict' or 'model'), and give the "
            f".safetensors file"
        )
    return "give a .safetensors file, as safetensors.torch.save_file writes a network's state_dict"
