"""Fingerprint the tensors of a safetensors file without torch."""

import hashlib
import json
from pathlib import Path

HEADER_BYTES = 8  # of the length of the header, which the data follow
# names of the format -> torch's names, which `network_fingerprint` uses
TYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2": "float8_e5m2",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
    "C64": "complex64",
}


def fingerprint_file(file: Path) -> str:
    """Return the `network_fingerprint` of the tensors of a file that this program has written.

    The file holds each tensor as contiguous little-endian bytes. They are read one tensor at a
    time.

    Source: the safetensors format, https://github.com/huggingface/safetensors#format.

    Args:
        file: A .safetensors file.
    """
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        size = int.from_bytes(stream.read(HEADER_BYTES), "little")
        header = json.loads(stream.read(size))
        header.pop("__metadata__", None)
        for name in sorted(header):
            tensor = header[name]
            kind = f"torch.{TYPES[tensor['dtype']]}"
            digest.update(json.dumps([name, tensor["shape"], kind]).encode())
            start, end = tensor["data_offsets"]
            stream.seek(HEADER_BYTES + size + start)
            digest.update(stream.read(end - start))
    return digest.hexdigest()
