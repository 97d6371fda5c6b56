#!/usr/bin/env bash
#
# Trains on a slice of TPU VMs, and continues after the slice was preempted.
#
#   export TPU_NAME=wbc TPU_ZONE=us-west4-a TPU_TYPE=v5litepod-16 TPU_RUNTIME=v2-alpha-tpuv5-lite
#   launch/tpu_vm.sh create            request the slice (a queued resource) and wait for it
#   launch/tpu_vm.sh install           build the wheel here and install it on all workers
#   launch/tpu_vm.sh run ARGUMENTS...  python -m wbc_jax.main ARGUMENTS on all workers
#   launch/tpu_vm.sh up ARGUMENTS...   create, install, run
#   launch/tpu_vm.sh stop              SIGTERM to all processes: they save and exit
#   launch/tpu_vm.sh status            the slice's state
#   launch/tpu_vm.sh delete            give the slice back
#
# The workers share no disk: --workdir must be gs://, and --config.data.data_dir should be. `run`
# returns when training ends. If a worker is lost it waits for the slice, requests it again if it
# was preempted, and runs the same line again, which continues from the last checkpoint.
#
# Optional: TPU_PROJECT, TPU_SPOT=1 (preemptible), TPU_SERVICE_ACCOUNT, TPU_MAX_RESTARTS (100),
# TPU_POLL_SECONDS (30), TPU_WHEEL (a wheel to install instead of building one).
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
UNIT=wbc_jax
INTERRUPTED=143 # stopped by SIGTERM, everything saved
LOST=255        # ssh's own failure
STOPPED=130     # by this script's `stop`
MARK=.wbc_jax_stopped

fail() {
  echo "error: $*" >&2
  exit 2
}

usage() {
  sed -n '/^#   /s/^#   //p' "${BASH_SOURCE[0]}" >&2
  exit 2
}

need() {
  local name
  for name in "$@"; do
    [[ -n ${!name:-} ]] || fail "$name is not set; see the head of launch/tpu_vm.sh"
  done
}

# Prints the last arguments of all commands.
place() {
  printf '%s\n' "--zone=$TPU_ZONE" ${TPU_PROJECT:+"--project=$TPU_PROJECT"}
}

queued() {
  local verb=$1 where
  shift
  mapfile -t where < <(place)
  gcloud compute tpus queued-resources "$verb" "$TPU_NAME" "$@" "${where[@]}"
}

state() {
  queued describe '--format=value(state.state)' 2>/dev/null || echo ABSENT
}

pause() {
  sleep "${TPU_POLL_SECONDS:-30}"
}

# Waits until the slice is active; returns 1 if it will never be.
await() {
  local now
  while true; do
    now=$(state)
    echo "slice $TPU_NAME: $now" >&2
    case $now in
      ACTIVE) return 0 ;;
      FAILED | SUSPENDED | ABSENT) return 1 ;;
    esac
    pause
  done
}

create() {
  need TPU_NAME TPU_ZONE TPU_TYPE TPU_RUNTIME
  local options=("--node-id=$TPU_NAME" "--accelerator-type=$TPU_TYPE"
    "--runtime-version=$TPU_RUNTIME")
  [[ -z ${TPU_SPOT:-} ]] || options+=(--spot)
  [[ -z ${TPU_SERVICE_ACCOUNT:-} ]] || options+=("--service-account=$TPU_SERVICE_ACCOUNT")
  queued create "${options[@]}"
  await || fail "the slice $TPU_NAME was not granted; look at: launch/tpu_vm.sh status"
}

delete() {
  queued delete --force --quiet
}

# Runs a command line on all workers at once; returns 0 or the status of a worker that failed.
on_all() {
  local where
  mapfile -t where < <(place)
  gcloud compute tpus tpu-vm ssh "$TPU_NAME" --worker=all "--command=$1" "${where[@]}"
}

install() {
  local wheel=${TPU_WHEEL:-} folder where
  mapfile -t where < <(place)
  if [[ -z $wheel ]]; then
    folder=$(mktemp -d)
    python3 -m pip wheel --quiet --no-deps "--wheel-dir=$folder" "$HERE"
    wheel=$(echo "$folder"/wbc_jax-*.whl)
  fi
  gcloud compute tpus tpu-vm scp "$wheel" "$TPU_NAME:" --worker=all "${where[@]}"
  # The Python of the VM image may be 3.10.
  on_all "set -e; sudo apt-get -qq update; sudo apt-get -qq install -y python3.11 python3.11-venv
    python3.11 -m venv ~/$UNIT; ~/$UNIT/bin/pip install --quiet '$(basename "$wheel")[tpu,gcs]'"
}

# Training runs as a systemd unit: it survives a lost connection, cannot run twice, and a machine
# that shuts down stops it with SIGTERM and two minutes to save. Bash ignores SIGTERM to pass the
# status on; systemd would count a process that died of SIGTERM as a success.
start() {
  local arguments
  printf -v arguments ' %q' "$@"
  on_all "rm -f ~/$MARK; sudo systemctl stop $UNIT 2>/dev/null
    sudo systemd-run --quiet --unit=$UNIT --collect --wait --pipe --uid=\"\$(id -u)\" \
      --setenv=HOME=\"\$HOME\" --setenv=WBC_JAX_DISTRIBUTED=auto \
      --working-directory=\"\$HOME\" --property=TimeoutStopSec=120 \
      bash -c 'trap : TERM; \"\$@\"; exit \$?' $UNIT \
      \"\$HOME/$UNIT/bin/python\" -u -m wbc_jax.main$arguments
    status=\$?; [ ! -e ~/$MARK ] || exit $STOPPED; exit \$status"
}

run() {
  (($#)) || usage
  [[ " $*" == *" --workdir=gs://"* ]] || fail "the workers share no disk: add --workdir=gs://..."
  local restarts=0 most=${TPU_MAX_RESTARTS:-100} status
  while true; do
    status=0
    start "$@" || status=$?
    case $status in
      0) return 0 ;;
      "$STOPPED")
        echo "Stopped; the same line continues the run." >&2
        return "$STOPPED"
        ;;
    esac
    # A preempted worker may still look healthy, and its neighbors may fail before it does.
    pause
    if ((status != INTERRUPTED && status != LOST)) && [[ $(state) == ACTIVE ]]; then
      fail "a worker ended with status $status, and the slice is there: not run again"
    fi
    if ((restarts >= most)); then
      fail "interrupted (status $status), and run again $restarts times already"
    fi
    restarts=$((restarts + 1))
    echo "Interrupted (status $status): restart $restarts of at most $most." >&2
    if ! await; then
      [[ $(state) == ABSENT ]] || delete
      create
      install
    fi
  done
}

(($#)) || usage
command=$1
shift
need TPU_NAME TPU_ZONE
case $command in
  create | install | delete) "$command" ;;
  run) run "$@" ;;
  up)
    create
    install
    run "$@"
    ;;
  stop) on_all "touch ~/$MARK; sudo systemctl stop $UNIT" ;;
  status) queued describe ;;
  *) usage ;;
esac
