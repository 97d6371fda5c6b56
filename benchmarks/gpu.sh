#!/usr/bin/env bash
#
# Measures everything on one GPU, in less than nine minutes:
#
#   benchmarks/gpu.sh [--tiny] [DIR]
#
# DIR (benchmarks/results/gpu) gets results.json, table.md, the JSON file of each part and its log.
# Each part has a time budget of its own. A part that fails or takes too long leaves the results of
# the others, and what it has written itself. --tiny: small sizes, also without a GPU, to see that
# all of it runs, with ten times as much time for each part; its times say nothing.
#
# PYTHON: the interpreter (python), with the extras `bench` and cuda13. A library that a part needs
# and that PYTHON lacks is an error before anything starts.
set -uo pipefail
tiny=
if [[ ${1:-} == --tiny ]]; then
  tiny=1
  shift
fi
if (($# > 1)) || [[ ${1:-} == -* ]]; then
  echo "usage: benchmarks/gpu.sh [--tiny] [DIR]" >&2
  exit 2
fi
out=${1:+$(realpath -m -- "$1")}
cd "$(dirname "$0")/.." || exit 1
out=${out:-$PWD/benchmarks/results/gpu}
python=${PYTHON:-python}
slower=1
[[ $tiny ]] && slower=10
limit=${WBC_JAX_GPU_SECONDS:-$((530 * slower))} # of all parts together
# Before anything is deleted or timed: a part whose library is missing would fail minutes later.
"$python" benchmarks/gpu_table.py --check || exit 1
mkdir -p "$out" || exit 1
rm -f "$out"/*.json "$out"/*.log "$out"/parts.tsv "$out"/table.md
work=$(mktemp -d)

table() {
  "$python" benchmarks/gpu_table.py "$out" || echo "error: no table was made" >&2
}
# Whatever ends the script: what is there becomes a table.
trap 'table; rm -rf "$work"' EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

# part NAME SECONDS COMMAND...: runs a command with a limit, and notes how it ended.
part() {
  local name=$1 seconds=$(($2 * slower)) start=$SECONDS status=0
  shift 2
  if ((seconds > limit - SECONDS)); then
    seconds=$((limit - SECONDS))
  fi
  if ((seconds < 2)); then
    printf '%s\tnot started\t0\n' "$name" >> "$out/parts.tsv"
    echo "$name: not started, no time left" >&2
    return
  fi
  # In the background, so that a signal to this script is handled at once.
  timeout --kill-after=5 "$seconds" "$@" > "$out/$name.log" 2>&1 &
  wait $! || status=$?
  case $status in
    0) status="done" ;;
    124 | 137) status="stopped after $seconds s" ;;
    *) status="failed ($status)" ;;
  esac
  printf '%s\t%s\t%s\n' "$name" "$status" "$((SECONDS - start))" >> "$out/parts.tsv"
  echo "$name: $status, $((SECONDS - start)) s"
}

# The program takes memory as it needs it, so that PyTorch finds some beside it.
export XLA_PYTHON_CLIENT_PREALLOCATE=false
unset JAX_COMPILATION_CACHE_DIR

if [[ $tiny ]]; then
  train=("segnet 8" "efficientnet 32") predict=("segnet 8") rounds=1 quick=(--quick)
  step=(--network=segnet --features=8 --size=64 "--batches=2,4" --steps=3)
  metrics=(--images=8 --size=64 --rounds=1)
  job=(--config.train.steps=4 --config.train.evaluate_every=4 --config.train.log_every=2
    --config.evaluate.bootstrap=20 --config.data.image_size=32)
else
  train=("unet 32, 16" "efficientnet 256, 32") rounds=3 quick=()
  predict=("unet 32, 16" "efficientnet 256, 32")
  step=(--features=32 --size=128 "--batches=16,64,256" --steps=20)
  metrics=(--images=64 --size=360 --rounds=3)
  job=()
fi

part environment 20 "$python" benchmarks/gpu_table.py --describe "$out" ${tiny:+--tiny}
if ! [[ $tiny ]] && ! grep -q 'environment.*done' "$out/parts.tsv"; then
  echo "error: no GPU is found (environment.log); --tiny runs without one" >&2
  exit 1
fi
# The most important first: a late part may find no time left.
part step 90 "$python" benchmarks/gpu_step.py "${step[@]}" --out="$out/step.json"
part job 80 "$python" -m wbc_jax.main --config=configs/unet.py --workdir="$work/run" "${job[@]}"
[[ -f $work/run/results.json ]] && cp "$work/run/results.json" "$out/job.json"
for i in "${!train[@]}"; do
  part "train-$i" 90 "$python" benchmarks/train_step.py ${quick[@]+"${quick[@]}"} \
    --rounds=$rounds --only="${train[i]}" --out="$out/train-$i.json"
done
for i in "${!predict[@]}"; do
  part "predict-$i" 50 "$python" benchmarks/inference.py ${quick[@]+"${quick[@]}"} \
    --rounds=$rounds --only="${predict[i]}" --out="$out/predict-$i.json"
done
part metrics 50 "$python" benchmarks/metrics.py "${metrics[@]}" --out="$out/metrics.json"
