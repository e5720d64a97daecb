"""The model that MLflow loads and serves: a student as a torch.export program for images in 0..1.

MLflow copies this file into the model's folder and runs it there. It imports nothing of the
project, so serving needs torch, numpy and MLflow only. Nothing is pickled: the program is plain
tensors and JSON.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel


class Student(PythonModel):
    """Student network from images (B, C, H, W) float32 in 0..1 to logits (B, K).

    The logits are in the order of `classes` in the artifact settings.json.
    """

    # Without this MLflow warns about missing types, although the signature defines the input
    _skip_type_hint_validation = True

    def load_context(self, context: Any) -> None:
        """Load the program, and the mean and std that normalize its images."""
        input_settings = json.loads(Path(context.artifacts["settings"]).read_text())["input"]
        self.mean, self.std = (
            torch.tensor(input_settings[name]).view(-1, 1, 1) for name in ("mean", "std")
        )
        self.program: Any = torch.export.load(context.artifacts["program"]).module()

    # Untyped, because MLflow supports only list types
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """Return the logits (B, K) as float32."""
        images = torch.from_numpy(np.array(model_input, np.float32))
        with torch.no_grad():
            return self.program((images - self.mean) / self.std).numpy()


set_model(Student())
