"""Detects the format of a saved model, reads it, and writes it."""

from __future__ import annotations

import io
import os
import struct
import zipfile
from typing import Any

from . import Refusal
from .unpickling import unpickle

ZIP = b"PK\x03\x04"
GIT_LFS = b"version https://git-lfs.github.com/spec/"
LARGEST_HEADER_BYTES = 100000000  # of a safetensors file, as the format itself limits it


class Safetensors(Exception):
    """The file has the format of neuralforecast 3.3.0 and later, of whose models no patch removes parameters."""


def read_saved(path: str, trust: bool) -> TorchFile:
    """The model in a file, whose first bytes identify the format, as in neuralforecast itself.

    Raises Safetensors for that format, which is not read, and Refusal for other files that are no models.
    """
    with open(path, "rb") as file:
        head = file.read(len(GIT_LFS))
        size = os.fstat(file.fileno()).st_size
    if head.startswith(GIT_LFS):
        raise Refusal("is a pointer of Git LFS and not the model itself; `git lfs pull` fetches it")
    header = struct.unpack("<Q", head[:8])[0] if len(head) >= 9 else 0
    # checked first, because the length of a header may begin like a pickle
    if 0 < header <= LARGEST_HEADER_BYTES and head[8:9] == b"{":
        if 8 + header > size:
            raise Refusal("is truncated: its header alone is longer than the file")
        raise Safetensors
    if head.startswith(ZIP) and not zipfile.is_zipfile(path):
        raise Refusal("is truncated: it is an archive without an end")
    if head.startswith((ZIP, b"\x80")):
        return TorchFile(path, trust)
    raise Refusal("is no model file: it begins neither as torch's files do nor as those of safetensors")


class TorchFile:
    """A file written by `torch.save`: neuralforecast's own format of 1.7.1 - 3.2, or a Lightning checkpoint."""

    def __init__(self, path: str, trust: bool) -> None:
        self.content = unpickle(path, trust)
        wanted = ("hyper_parameters", "state_dict")
        if not isinstance(self.content, dict) or not all(isinstance(self.content.get(key), dict) for key in wanted):
            raise Refusal(
                "is a file of torch, but no model of neuralforecast: it lacks `hyper_parameters` or `state_dict`"
            )
        self.hyper_parameters: dict[str, Any] = self.content["hyper_parameters"]
        self.state = self.content["state_dict"]
        self.optimizers = self.content.get("optimizer_states") or []

    def write(self, path: str, state: Any, optimizers: list[dict[str, Any]]) -> None:
        """Writes this file with another state dict and other optimizers, and everything else unchanged."""
        import torch

        content = dict(self.content, state_dict=state)
        if self.optimizers:
            content["optimizer_states"] = optimizers
        buffer = io.BytesIO()  # because torch raises a RuntimeError if the disk is full
        torch.save(content, buffer)
        with open(path, "xb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
