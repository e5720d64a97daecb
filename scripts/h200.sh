#!/usr/bin/env bash
# Check this repository on a machine with an NVIDIA GPU, in eight minutes at most.
#
#     bash scripts/h200.sh [--device cpu]
#
# Runs tests of what differs on a GPU, then benchmarks/pairs.py (steps of four pairs, and epochs of one),
# benchmarks/fused.py and a case of benchmarks/small.py on it. Every part has a time limit of its
# own, so that a hang does not lose the rest. The output of each part goes to a file in $OUT, if
# that is set, and to the terminal.
# Installs nothing; wheels in the folder .wheels (made with `pip download --dest .wheels`) are used
# without a network for packages that are missing. The exit code is the number of parts that failed.
# `--device cpu` runs small cases of the same parts. Variables: PYTHON, the interpreter; CIFAR100, a
# folder with the data set, instead of random images.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

device=cuda
if [ $# -gt 0 ]; then
  device=${2:-}
  if [ "$1" != "--device" ] || [ $# -ne 2 ] || [[ ! "$device" =~ ^(cuda|cpu)$ ]]; then
    echo "$0 takes --device cuda or --device cpu" >&2
    exit 2
  fi
fi
out=${OUT:-$(mktemp -d)}
mkdir -p "$out"
if [ -z "${PYTHON:-}" ]; then
  PYTHON=python3
  [ -x .venv/bin/python ] && PYTHON=.venv/bin/python
fi
export OMP_NUM_THREADS=1 PYTHONUNBUFFERED=1 PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
failed=0

# part NAME SECONDS COMMAND...: run a command with a time limit, and keep its output.
part() {
  local name=$1 limit=$2 code
  shift 2
  printf '\n== %s (at most %s s)\n' "$name" "$limit"
  timeout --kill-after=5 "$limit" "$@" 2>&1 | tee "$out/$name.txt"
  code=${PIPESTATUS[0]}
  if [ "$code" -ne 0 ]; then
    printf '== %s ended with %s\n' "$name" "$code"
    failed=$((failed + 1))
  fi
}

if compgen -G '.wheels/*.whl' >/dev/null; then
  packages=$(mktemp -d)
  part wheels 30 "$PYTHON" -m pip install --quiet --no-index --no-deps --no-compile \
    --target "$packages" .wheels/*.whl
  # after the packages of the machine, which stay as they are
  export PYTHONPATH="$PYTHONPATH:$packages"
fi

part machine 30 "$PYTHON" -c "
import importlib.util, platform, torch
print('Python', platform.python_version(), 'torch', torch.__version__)
if '$device' == 'cuda':
    print(torch.cuda.get_device_name(), torch.version.cuda)
for name in ('pydantic', 'yaml', 'safetensors', 'timm', 'lightning', 'ray', 'optuna', 'mlflow'):
    print(name, 'is there' if importlib.util.find_spec(name) else 'is missing')
"

tests=(tests/training/test_clock.py tests/training/test_compiled_step.py
  tests/data/test_data_resident.py tests/data/test_data_views.py tests/data/test_transforms.py)
steps=() small=(--rounds 2) fused=(--check-students 2,8,16 --check-steps 1 --steps 15 --rounds 2)
published=(--variants step --seconds 30)
[ -n "${CIFAR100:-}" ] && published+=(--data "$CIFAR100")
if [ "$device" = cpu ]; then
  tests=(tests/training/test_clock.py)
  steps=(--pairs resnet8-cnn --variants eager --processes 2 --images 128 --rounds 1)
  small=(--rounds 1 --epochs 1)
  published=(--pairs resnet8-cnn --variants eager --seconds 5 --images 128)
  fused=(--networks resnet8 --students 2 --processes 2 --steps 1 --rounds 1 --batch-size 4
    --check-steps 2)
fi
part tests 80 "$PYTHON" -m pytest -q -rs -p no:cacheprovider "${tests[@]}"
part pairs 125 "$PYTHON" benchmarks/pairs.py --device "$device" "${steps[@]}" --json
part fused 100 "$PYTHON" benchmarks/fused.py --device "$device" "${fused[@]}" --json
part small 40 "$PYTHON" benchmarks/small.py --device "$device" "${small[@]}" --cases digits-mlp --json
part published 65 "$PYTHON" benchmarks/pairs.py --device "$device" "${published[@]}" --json

printf '\nresults: %s, failed parts: %s\n' "$out" "$failed"
exit "$failed"
