#!/usr/bin/env bash
# Measures everything anew: benches/results/*.json, the charts beside them, and the figures in RESULTS.md.
#   benches/run.sh [DIR]     DIR lies on the disk to be measured [default: where temporary files go]
# Takes about fifteen minutes, and 15 GB of disk. Nothing else should run meanwhile.
set -euo pipefail
cd "$(dirname "$0")/.."
dir="${1:-${TMPDIR:-/tmp}}"
export LOGWEIR_BENCH_DIR="$dir" TMPDIR="$dir"
target="${CARGO_TARGET_DIR:-target}"
results="$PWD/benches/results"
mkdir -p "$results"

# With the bench and the whole workspace named both times, what they share is built once.
cargo build --workspace --release --bin logweir --bench targets
logweir="$target/release/logweir"
bench() { # NAME ARGUMENTS…
    echo "bench $1: ${*:2}"
    "$logweir" bench "${@:2}" --quiet --json >"$results/$1.json.new"
    mv "$results/$1.json.new" "$results/$1.json"
}

cargo bench --workspace --bench targets -- --json "$results/targets.json"
bench start start --iterations 200 --dir "$dir"
# The first checkpoint after the records were written, within a minute, is theirs; idle is what comes after.
bench idle-1000 idle --partitions 1000 --spawn-in "$dir" --settle 75s --duration 60s
bench idle-10000 idle --partitions 10000 --spawn-in "$dir" --settle 75s --duration 60s
bench idle-consumers idle --partitions 1000 --consumers 1000 --spawn-in "$dir" --settle 75s --duration 60s
bench group-100 group --members 100 --partitions 1000 --spawn-in "$dir" --settle 10s --duration 10s
bench group-1000 group --members 1000 --partitions 1000 --spawn-in "$dir" --settle 75s --duration 60s
bench start-10000 start --partitions 10000 --dir "$dir"
bench kill-10gib start --log-bytes 10GiB --dir "$dir"
bench produce-100b produce --spawn --spawn-in "$dir" --flush os --records 10000000
bench consume-100b consume --spawn --spawn-in "$dir" --flush os --records 10000000
bench latency-1000 latency --spawn --spawn-in "$dir" --rate 1000 --duration 20s
bench latency-500000 latency --spawn --spawn-in "$dir" --flush os --rate 500000 --duration 20s
benches/report.py "$dir"
