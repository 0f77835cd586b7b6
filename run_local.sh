#!/usr/bin/env bash
# Runs the job on the sample photographs, from a fresh clone: ./run_local.sh [options of pipeline.main]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. scripts/venv.sh

# value_of OPTION ARGUMENT...: prints OPTION's last value, given as --option=value or --option value; fails without one.
value_of() {
  local option=$1 value='' status=1
  shift
  while (($#)); do
    case $1 in
      "$option="*) value=${1#*=} status=0 ;;
      "$option") value=${2-} status=0 ;;
    esac
    shift
  done
  printf '%s\n' "$value"
  return $status
}

for argument; do
  if [[ $argument == --help || $argument == -h ]]; then
    prepare_venv requirements.txt
    exec .venv/bin/python -m pipeline.main "$@"
  fi
done

prepare_venv requirements.txt
arguments=(--runner=DirectRunner)

if ! value_of --input "$@" >/dev/null; then
  input_made_from=$(cat samples/make_input.py samples/photos/* | cksum)
  if [[ $(cat local/input/made-from 2>/dev/null) != "$input_made_from" ]]; then
    .venv/bin/python -m samples.make_input local/input >&2
    printf '%s\n' "$input_made_from" >local/input/made-from
  fi
  arguments+=('--input=local/input/tfrecords/*.tfrecord')
  # The sample shards hold four or five photographs: a larger batch would be padding.
  value_of --batch_size "$@" >/dev/null || arguments+=(--batch_size=5)
  value_of --key_feature "$@" >/dev/null || arguments+=(--key_feature=image/filename)
  value_of --pass_through "$@" >/dev/null || arguments+=(--pass_through=image/class/label)
fi

if ! value_of --model "$@" >/dev/null; then
  model=bit/m-r101x3 status=0
  .venv/bin/python -m bit.download "--model=$model" >&2 || status=$?
  if ((status == 3)); then
    model=untrained/r101x3
    say "The official weights of BiT-M R101x3 could not be reached."
    say "Continuing with untrained weights from a fixed seed: the features have the right shape but no meaning."
  elif ((status)); then
    exit "$status"
  fi
  arguments+=("--model=$model")
fi

if ! output=$(value_of --output "$@"); then
  # Features of untrained weights never go where the real ones belong.
  output=local/features
  [[ ${model-} != untrained/* ]] || output=local/features-untrained
  arguments+=("--output=$output")
fi

# With job control the job has its own process group, so that each signal reaches it once, through the traps. They are set
# before it starts: a signal that comes in between is passed on afterwards.
job='' early=''
pass_on() {
  signalled=yes
  if [[ $job ]]; then kill "-$1" "$job" || :; else early=$1; fi
}
trap 'pass_on INT' INT
trap 'pass_on TERM' TERM
set -m
.venv/bin/python -m pipeline.main "${arguments[@]}" "$@" </dev/null &
job=$!
[[ -z $early ]] || kill "-$early" "$job"
signalled=yes
while [[ $signalled ]]; do
  signalled='' status=0
  wait "$job" || status=$?
done
((status == 0)) || exit "$status"

say
say "Features: $output/features-*.tfrecord, one tf.Example per image"
say "Failed images, if any: $output/failures-*.jsonl"
say "Totals, model and versions: $output/manifest.json"
say "To look at them: .venv/bin/python -m samples.show $output"
