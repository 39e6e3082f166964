#!/usr/bin/env bash
# Everything that needs a GPU, the most important first, in so many seconds in all.
#
#   benchmarks/gpu.sh FOLDER [SECONDS] [CHECKOUT OF VAR]
#
# Every line is a process with a limit of its own. FOLDER/gpu.json is written anew after each line: what it found,
# how long it took, how it ended, the last lines that it said; and which lines were not reached. A line that fails
# stops no other one. ONLY="name name" runs these lines alone. TRY=1 runs all of them in tiny sizes on a processor.
set -u
: "${1:?name a folder for the results}"
folder=$(realpath -m "$1")
deadline=$((SECONDS + ${2:-420}))
reference=${3:+$(realpath -m "$3")}
cd "$(dirname "$0")/.." || exit 1

python=${PYTHON:-python3}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$folder"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
export TORCHINDUCTOR_CACHE_DIR=${TORCHINDUCTOR_CACHE_DIR:-$scratch/inductor}

# Sizes
device=cuda
step="--sizes d16 --rounds 7"
short="--sizes d16 --rounds 5"
long="--sizes 2240 9451 --rounds 5"
kernels="slices flex fused plain"
attending=50
drawing="--depth 16 --batch 64 --rounds 3"
small="generator_training.batch=32"
shapes="tokenizer_training.steps=400 generator_training.steps=1000"
if [ -n "${TRY:-}" ]; then
    device=cpu
    step="--sizes tiny --rounds 2 --no-memory"
    short=$step
    long=$step
    kernels="slices fused plain" # FlexAttention has no gradient on a processor
    attending=10
    drawing="--depth 1 --levels 1 2 --codes 16 --channels 32 --batch 2 --rounds 2"
    small="generator_training.batch=2 generator.dim=32 generator.depth=1 generator.num_heads=2"
    shapes="tokenizer_training.steps=2 generator_training.steps=2 data.shapes_train=64 data.shapes_test=48"
    shapes+=" tokenizer_training.batch=8 generator_training.batch=8"
fi
beside=""
[ -n "$reference" ] && beside="--reference $reference"

# Names of the lines, their limits in seconds, and what they run, in the order of importance
names=()
limits=()
commands=()
line() {
    if [ -z "${ONLY:-}" ] || [[ " $ONLY " == *" $1 "* ]]; then
        names+=("$1")
        limits+=("$2")
        commands+=("$3")
    fi
}

training="$python benchmarks/training.py --device $device"
line step 90 "$training $step $beside --precision bf16 --compile none blocks --json found.json"
line tests 75 "$python -m pytest -q -m cuda --tb=short --continue-on-collection-errors tests/training tests/sampling"
line sampling 75 "$python benchmarks/sampling.py $drawing $beside --fast --precision float32 bf16 --device $device --output found.json"
line attention 75 "$python benchmarks/attention.py --device $device --precision bf16 --seconds $attending --json found.json"
line encodings 70 "$python benchmarks/encoding_costs.py --config imagenet256_learned.yaml --rounds 5 --device $device \
--encodings learned rope relative_bias alibi peg --json found.json $small"
line learns 120 "$python scripts/train.py --config shapes_learned.yaml run=$scratch/run tokenizer_run=$scratch/tokenizer \
$shapes"
line kernels 60 "$training $short --precision bf16 --attention $kernels --json found.json"
line long 60 "$training $long $beside --precision bf16 --json found.json"
line float32 60 "$training $short $beside --precision float32 --json found.json"
line whole 200 "$training $short --precision bf16 --compile none whole --json found.json"

# What is known so far, as JSON: a record for each line that ran, and the names of the others
: >"$scratch/records"
write_what_is_known() {
    "$python" - "$scratch/records" "$folder/gpu.json" "${names[@]}" <<'CODE'
import json, os, sys

records, path, *names = sys.argv[1:]
lines = [json.loads(line) for line in open(records)]
ran = [line["name"] for line in lines]
with open(path + ".part", "w") as file:
    json.dump({"lines": lines, "not reached": [name for name in names if name not in ran]}, file, indent=2)
os.replace(path + ".part", path)
CODE
}

note() { # name, command, exit status, seconds, folder
    "$python" - "$@" >>"$scratch/records" <<'CODE'
import json, pathlib, sys

name, command, status, seconds, folder = sys.argv[1:]
said = pathlib.Path(folder, "said").read_text(errors="replace").replace("\r", "\n").splitlines()
try:
    found = json.loads(pathlib.Path(folder, "found.json").read_text())
except (OSError, ValueError):
    found = None
ended = {"0": "well", "124": "out of time", "137": "out of time"}.get(status, f"with status {status}")
print(json.dumps({
    "name": name, "ended": ended, "seconds": int(seconds), "command": command, "found": found,
    "said": said[-(15 if ended == "well" else 40):],
}))
CODE
}

write_what_is_known
for number in "${!names[@]}"; do
    left=$((deadline - SECONDS - 3))
    if [ "$left" -lt 15 ]; then
        break
    fi
    name=${names[number]}
    limit=$((left < limits[number] ? left : limits[number]))
    own=$scratch/line_$name
    mkdir -p "$own"
    command=${commands[number]//found.json/$own/found.json}

    began=$SECONDS
    timeout --kill-after=5 "$limit" bash -c "$command" >"$own/said" 2>&1
    status=$?
    if [ "$name" = learns ] && [ -e "$scratch/run/log.jsonl" ]; then # the losses as the run logged them
        "$python" -c 'import json, sys; print(json.dumps([json.loads(line) for line in open(sys.argv[1])]))' \
            "$scratch/run/log.jsonl" >"$own/found.json"
    fi
    note "$name" "$command" "$status" "$((SECONDS - began))" "$own"
    write_what_is_known
    echo "== $name: status $status after $((SECONDS - began)) s"
    tail -n 12 "$own/said"
done

"$python" -c 'import json, sys; print("not reached:", json.load(open(sys.argv[1]))["not reached"])' "$folder/gpu.json"
