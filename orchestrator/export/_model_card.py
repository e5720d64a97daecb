"""Write the card of an exported student, as model hubs read it: YAML, then Markdown.

The card depends on settings.json alone.
"""

from collections.abc import Callable
from typing import Any

import yaml

Values = dict[str, Any]
FILES = {  # the content of the folder, and the code that opening it runs
    "safetensors": "`model.safetensors` holds weights and no code; this project's "
    "`orchestrator` and `methods` build the network.",
    "torchexport": "`model.pt2` is a program of `torch.export` for batches of any size and "
    "needs PyTorch alone. Nothing in it is "
    "pickled, but `torch.export.load` would unpickle what a stranger put into such a file, and "
    "a program is code: open those of "
    "people you trust. PyTorch does not promise that a later version reads it: keep the "
    "safetensors export too.",
    "onnx": "`model.onnx` is an ONNX graph for batches of any size: its input is `images`, its "
    "output `logits`, both float32.",
}
TORCH = (
    "mean = torch.tensor({mean}).view(-1, 1, 1)\n"
    "deviation = torch.tensor({deviation}).view(-1, 1, 1)\n"
    "images = torch.rand(2, {channels}, {height}, {width})  # yours\n"
    "with torch.no_grad():\n"
)
CODE = {
    "safetensors": "import torch\n"
    "from orchestrator.export.loading import load_exported\n\n"
    'FOLDER = "."  # the folder of this card\n'
    "network = load_exported(FOLDER)  # on the CPU, in eval mode\n"
    + TORCH
    + "    logits = network((images - mean) / deviation).logits\n",
    "torchexport": "import torch\n\n"
    'FOLDER = "."  # the folder of this card\n'
    'program = torch.export.load(f"{{FOLDER}}/model.pt2").module()\n'
    + TORCH
    + "    logits = program((images - mean) / deviation)\n",
    "onnx": "import numpy as np\n"
    "import onnxruntime\n\n"
    'FOLDER = "."  # the folder of this card\n'
    'session = onnxruntime.InferenceSession(f"{{FOLDER}}/model.onnx", '
    'providers=["CPUExecutionProvider"])\n'
    "mean = np.array({mean}, np.float32).reshape(-1, 1, 1)\n"
    "deviation = np.array({deviation}, np.float32).reshape(-1, 1, 1)\n"
    "images = np.random.rand(2, {channels}, {height}, {width}).astype(np.float32)  # yours\n"
    '(logits,) = session.run(["logits"], {{"images": (images - mean) / deviation}})\n',
}
METRICS = ("accuracy", "nll", "ece", "entropy", "agreement")


def model_card(settings: Values) -> str:
    """Return the text of README.md for the content of settings.json."""
    parts = (_title, _metrics, _loading, _training, _limits)
    return f"---\n{_front(settings)}---\n\n" + "\n\n".join(part(settings) for part in parts) + "\n"


def _front(settings: Values) -> str:
    data, source = settings["data"], settings["source"]
    part = "test" if _tested(source) else "validation"
    value = source["metrics"][f"{part}/{source['weights']}/accuracy"]
    result = {
        "task": {"type": "image-classification"},
        "dataset": {"name": data["name"], "type": data["name"], "split": part},
        "metrics": [{"type": "accuracy", "name": f"{part} accuracy", "value": value}],
    }
    distilled = (
        ["knowledge-distillation"] if settings["teacher"] or settings["hears_others"] else []
    )
    values = {
        "tags": [
            "image-classification",
            *distilled,
            settings["method"]["name"],
            settings["network"]["name"],
        ],
        "pipeline_tag": "image-classification",
        "metrics": ["accuracy"],
        "model-index": [{"name": settings["name"], "results": [result]}],
    }
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _title(settings: Values) -> str:
    source, network = settings["source"], settings["network"]
    teacher = (
        f", distilled from `{settings['teacher']['network']['name']}`"
        if settings["teacher"]
        else ""
    )
    which = "best on the validation part" if source["weights"] == "best" else "of the last epoch"
    return (
        f"# {settings['name']}\n\n"
        f"`{network['name']}` with {settings['parameters']:,} parameters for "
        f"{len(settings['classes'])} classes of "
        f"{settings['data']['name']}{teacher}: student {source['student']} of trial "
        f"{source['trial']} of the run "
        f"`{source['run']}`, with its weights {which}, after {source['epoch']} of "
        f"{settings['training']['epochs']} epochs. "
        f"The trial is {source['chosen']}.{_beside(settings)}"
    )


def _beside(settings: Values) -> str:
    if not settings["beside"]:
        return ""
    others = ", ".join(
        f"{letter} (`{network['name']}`)" for letter, network in settings["beside"].items()
    )
    heard = (
        "learned from each other's answers"
        if settings["hears_others"]
        else "saw the same batches and heard nothing of each other"
    )
    return f" It was trained beside {others}: they {heard}."


def _metrics(settings: Values) -> str:
    source = settings["source"]
    table = _table(source["metrics"], lambda value: f"{value:.4f}")
    best = (
        f"The best weights are those after epoch {source['best_epoch']}, the last ones "
        f"those after epoch {source['epochs']}. "
    )
    meaning = "NLL and entropy are in nats, agreement is with the classes of the run's teacher."
    return f"## Metrics\n\n{table}\n\n{best}{meaning} {_test_use(source)}{_over_seeds(settings)}"


def _over_seeds(settings: Values) -> str:
    over = settings["over_seeds"]
    if not over:
        return ""
    seeds = ", ".join(map(str, over["seeds"]))
    table = _table(over["metrics"], lambda value: f"{value['mean']:.4f} ± {value['error']:.4f}")
    return (
        f"\n\nMean ± standard error of the {len(over['seeds'])} seeds with these settings "
        f"({seeds}):\n\n{table}"
    )


def _table(metrics: Values, word: Callable[[Any], str]) -> str:
    """Return a table of the available metrics by part and weights."""
    columns = [(part, which) for part in ("validation", "test") for which in ("best", "last")]
    columns = [
        pair for pair in columns if any(name.startswith("/".join(pair) + "/") for name in metrics)
    ]
    heads = [f"{part}, {which} weights" for part, which in columns]
    rows = [f"| | {' | '.join(heads)} |", f"|---|{'---|' * len(columns)}"]
    for metric in METRICS:
        values = [metrics.get(f"{part}/{which}/{metric}") for part, which in columns]
        if any(value is not None for value in values):
            rows.append(
                f"| {metric} | "
                f"{' | '.join('' if value is None else word(value) for value in values)} |"
            )
    return "\n".join(rows)


def _test_use(source: Values) -> str:
    if not _tested(source):
        return "The trial did not train all its epochs, so the test part was not read."
    read = "This trial read the test part once, when its last epoch was over, with both weights; "
    if source["asked"]:
        return (
            read
            + "the epoch of the best weights was not chosen by it, and the trial was asked for "
            "by its number."
        )
    return read + "neither that epoch nor the trial was chosen by it."


def _loading(settings: Values) -> str:
    prepared = settings["input"]
    channels, height, width = prepared["shape"]
    middle = ""
    if prepared["cut"]:
        middle = (
            f" They are the middle square, {prepared['cut']:g} of the short side, scaled "
            f"to {width} x {height} pixels (bilinear)."
        )
    mean, deviation = prepared["mean"], prepared["std"]
    code = CODE[settings["form"]].format(
        mean=mean, deviation=deviation, channels=channels, height=height, width=width
    )
    return (
        "## Use\n\n"
        f"Images are {channels} x {height} x {width}, values in 0..1, less the mean and over "
        f"the deviation of each channel."
        f"{middle} Logits are in the order of `classes` in `settings.json`. "
        f"{FILES[settings['form']]}\n\n"
        "```python\n"
        f"{code}"
        "```\n\n"
        "Or of picture files: `python run.py predict FOLDER PICTURE.png`.\n\n"
        f"{_checked(settings['checked'])}"
    )


def _checked(checked: Values) -> str:
    real = (
        f" and on {checked['validation']} images of the validation part"
        if checked["validation"]
        else ""
    )
    allowed = (
        f"at most {checked['tolerance']:g} of a batch's largest logit"
        if checked["tolerance"]
        else "none"
    )
    return (
        f"The file was read again after it was written, and its logits were compared with the "
        f"student's on {checked['random']} "
        f"random images{real}: they differ by {checked['largest_difference']:.2g} at most; "
        f"allowed: {allowed}."
    )


def _training(settings: Values) -> str:
    data, method, teacher = settings["data"], settings["method"], settings["teacher"]
    sizes = ", ".join(f"{part} {size}" for part, size in data["sizes"].items())
    lines = {
        "data": f"{data['name']}: {sizes}; {_said(_rest(data, 'name', 'sizes', 'fingerprint'))}",
        "teacher": _teacher(teacher) if teacher else "none that it heard",
        "method": f"{method['name']} ({method['provenance']}): "
        f"{_said(method['settings']) or 'no settings'}",
        "network": f"{settings['network']['name']}: "
        f"{_said(_rest(settings['network'], 'name')) or 'no settings'}",
        "recipe": _said(settings["training"]),
        "searched": _said(settings["searched"]) or "nothing",
        "seed": str(settings["seed"]),
    }
    return "## Training\n\n" + "\n".join(f"- **{name}**: {line}" for name, line in lines.items())


def _teacher(teacher: Values) -> str:
    network = teacher["network"]
    reached = {"validation": "validation/accuracy", "test": "test/last/accuracy"}
    metrics = [
        f"{part} accuracy {teacher['metrics'][name]:.4f}"
        for part, name in reached.items()
        if name in teacher["metrics"]
    ]
    came = [f"weights {teacher['start']}"] if teacher["start"] else []
    return ", ".join(
        [
            network["name"],
            *([_said(_rest(network, "name"))] if len(network) > 1 else []),
            *came,
            *metrics,
        ]
    )


def _limits(settings: Values) -> str:
    data, source = settings["data"], settings["source"]
    lines = [
        f"It has learned from {data['sizes']['train']} images of {data['name']}; of other "
        f"images, or images prepared in another "
        "way, nothing is known.",
        _other_seeds(settings),
        "The validation accuracy of the best weights is the largest of all epochs, and the "
        "trial may be the best of many: a "
        "little optimistic.",
    ]
    if "labelled" in data:
        lines.append(f"Only {data['labelled']} of the training images had a label.")
    if "validation_in_training" in data:
        lines.append(
            "It was trained on the validation part too: its validation metrics say nothing of "
            "other images."
        )
    if data["label_noise"]:
        lines.append(
            f"{data['label_noise']:.0%} of the training labels were made wrong on purpose."
        )
    if source["taken_over"]:
        epochs = ", ".join(
            f"epoch {change['epoch']} (trial {change['source']})" for change in source["taken_over"]
        )
        lines.append(
            f"Weights and settings of other trials were taken over after {epochs}: earlier "
            f"epochs had other settings."
        )
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines)


def _other_seeds(settings: Values) -> str:
    one = f"One training, with seed {settings['seed']}"
    if not settings["over_seeds"]:
        return f"{one}: how much another seed would differ was not measured."
    return (
        f"{one}: others of its {len(settings['over_seeds']['seeds'])} seeds came out "
        f"otherwise, as the table of their means says."
    )


def _tested(source: Values) -> bool:
    return any(name.startswith("test/") for name in source["metrics"])


def _rest(values: Values, *without: str) -> Values:
    return {name: value for name, value in values.items() if name not in without}


def _said(values: Values) -> str:
    """Return the values in one line, without those that are null or empty."""
    shown = {name: value for name, value in values.items() if value not in (None, [], {})}
    return ", ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in shown.items()
    )
