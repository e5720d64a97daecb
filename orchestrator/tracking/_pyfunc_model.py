"""The model that MLflow loads and serves: a student as a program of torch.export, which takes images of 0..1.

MLflow copies this file into the model's folder and runs it there: it imports nothing of the project, so whoever serves the model
needs torch, numpy and MLflow alone. Nothing is pickled: the program is plain tensors and JSON.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel


class Student(PythonModel):
    """Images (B, C, H, W) float32 in 0..1 to logits (B, K), in the order of `classes` in the artifact settings.json."""

    _skip_type_hint_validation = True  # or MLflow warns that there are no types, though the signature says what comes in

    def load_context(self, context: Any) -> None:
        """Read the program, and how images are prepared for it."""
        said = json.loads(Path(context.artifacts["settings"]).read_text())["input"]
        self.mean, self.std = (torch.tensor(said[name]).view(-1, 1, 1) for name in ("mean", "std"))
        self.program: Any = torch.export.load(context.artifacts["program"]).module()

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # of types, MLflow knows lists alone
        """The logits."""
        images = torch.from_numpy(np.array(model_input, np.float32))
        with torch.no_grad():
            return self.program((images - self.mean) / self.std).numpy()


set_model(Student())
