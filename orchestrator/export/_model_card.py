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
    "pickled, but `torch.export.load` unpickles the content of files that demand it, and "
    "a program is code: open only "
    "files from trusted sources. A later PyTorch may be unable to read it: keep the "
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
        f"The trial is {source['chosen']}.{_peers(settings)}"
    )


def _peers(settings: Values) -> str:
    if not settings["beside"]:
        return ""
    peers = ", ".join(
        f"{letter} (`{network['name']}`)" for letter, network in settings["beside"].items()
    )
    exchange = (
        "the students learned from each other's predictions"
        if settings["hears_others"]
        else "the students had the same batches and did not exchange predictions"
    )
    return f" It was trained together with {peers}: {exchange}."


def _metrics(settings: Values) -> str:
    source = settings["source"]
    table = _table(source["metrics"], lambda value: f"{value:.4f}")
    best = (
        f"The best weights are from epoch {source['best_epoch']}, the last weights from epoch "
        f"{source['epochs']}. "
    )
    meaning = "NLL and entropy are in nats, agreement is with the predictions of the run's teacher."
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


def _table(metrics: Values, format_value: Callable[[Any], str]) -> str:
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
                f"{' | '.join('' if value is None else format_value(value) for value in values)} |"
            )
    return "\n".join(rows)


def _test_use(source: Values) -> str:
    if not _tested(source):
        return "The trial did not train all its epochs, so the test part was not evaluated."
    evaluated = (
        "The test part was evaluated once, after the last epoch, with the best and the last "
        "weights. "
    )
    if source["asked"]:
        return (
            evaluated
            + "It was not used to select the epoch of the best weights; the trial was selected by "
            "its number."
        )
    return evaluated + "It was not used to select the epoch or the trial."


def _loading(settings: Values) -> str:
    prepared = settings["input"]
    channels, height, width = prepared["shape"]
    middle = ""
    if prepared["cut"]:
        middle = (
            f" Crop the central square, {prepared['cut']:g} of the short side, and scale it "
            f"to {width} x {height} pixels (bilinear)."
        )
    mean, deviation = prepared["mean"], prepared["std"]
    code = CODE[settings["form"]].format(
        mean=mean, deviation=deviation, channels=channels, height=height, width=width
    )
    return (
        "## Use\n\n"
        f"Inputs are images of {channels} x {height} x {width} with values in 0..1, normalised by "
        f"the mean and standard deviation of each channel."
        f"{middle} Logits are in the order of `classes` in `settings.json`. "
        f"{FILES[settings['form']]}\n\n"
        "```python\n"
        f"{code}"
        "```\n\n"
        "For image files: `python run.py predict FOLDER PICTURE.png`.\n\n"
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
        f"After writing, the file was loaded and its logits were compared with the student's on "
        f"{checked['random']} random images{real}: the largest difference is "
        f"{checked['largest_difference']:.2g}; allowed: {allowed}."
    )


def _training(settings: Values) -> str:
    data, method, teacher = settings["data"], settings["method"], settings["teacher"]
    sizes = ", ".join(f"{part} {size}" for part, size in data["sizes"].items())
    lines = {
        "data": f"{data['name']}: {sizes}; "
        f"{_one_line(_rest(data, 'name', 'sizes', 'fingerprint'))}",
        "teacher": _teacher(teacher) if teacher else "none used",
        "method": f"{method['name']} ({method['provenance']}): "
        f"{_one_line(method['settings']) or 'no settings'}",
        "network": f"{settings['network']['name']}: "
        f"{_one_line(_rest(settings['network'], 'name')) or 'no settings'}",
        "recipe": _one_line(settings["training"]),
        "searched": _one_line(settings["searched"]) or "nothing",
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
    start = [f"weights {teacher['start']}"] if teacher["start"] else []
    return ", ".join(
        [
            network["name"],
            *([_one_line(_rest(network, "name"))] if len(network) > 1 else []),
            *start,
            *metrics,
        ]
    )


def _limits(settings: Values) -> str:
    data, source = settings["data"], settings["source"]
    lines = [
        f"It was trained on {data['sizes']['train']} images of {data['name']}; its accuracy on "
        f"other images, or with other preprocessing, is unknown.",
        _other_seeds(settings),
        "The validation accuracy of the best weights is the maximum over all epochs, and the "
        "trial may be the best of many: it is optimistically biased.",
    ]
    if "labelled" in data:
        lines.append(f"Only {data['labelled']} of the training images had a label.")
    if "validation_in_training" in data:
        lines.append(
            "It was also trained on the validation part: its validation metrics do not measure "
            "generalisation."
        )
    if data["label_noise"]:
        lines.append(
            f"{data['label_noise']:.0%} of the training labels were replaced by wrong ones (label "
            f"noise)."
        )
    if source["taken_over"]:
        epochs = ", ".join(
            f"epoch {change['epoch']} (trial {change['source']})" for change in source["taken_over"]
        )
        lines.append(
            f"The trial copied weights and settings of other trials after {epochs}: earlier "
            f"epochs had other settings."
        )
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines)


def _other_seeds(settings: Values) -> str:
    one = f"One training, with seed {settings['seed']}"
    if not settings["over_seeds"]:
        return f"{one}: the variation over seeds was not measured."
    return (
        f"{one}; the table of means shows the variation over its "
        f"{len(settings['over_seeds']['seeds'])} seeds."
    )


def _tested(source: Values) -> bool:
    return any(name.startswith("test/") for name in source["metrics"])


def _rest(values: Values, *without: str) -> Values:
    return {name: value for name, value in values.items() if name not in without}


def _one_line(values: Values) -> str:
    """Return the values in one line, without those that are null or empty."""
    shown = {name: value for name, value in values.items() if value not in (None, [], {})}
    return ", ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in shown.items()
    )
