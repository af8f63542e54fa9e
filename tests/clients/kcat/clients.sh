#!/usr/bin/env bash
# kcat, librdkafka's command line. It has no admin calls; topics come with the first record.
#
#   clients.sh check ADDRESS                every check
#   clients.sh produce ADDRESS TOPIC        sends lines of standard input: KEY, tab, VALUE
#   clients.sh consume ADDRESS TOPIC GROUP  a member of a group until standard input closes
set -euo pipefail
command="$1" address="$2" topic="${3:-}" group="${4:-}"
failed=0

run() { timeout 30 kcat -q -b "$address" "$@"; }

check() { # NAME WANTED GOT
    if [[ "$2" == "$3" ]]; then
        echo "ok $1"
    else
        echo "FAIL $1: $(tr '\n' ' ' <<<"got '${3:0:300}', wanted '${2:0:300}'")"
        failed=1
    fi
}

sends() { run -P -t "$1" -X enable.idempotence=true "${@:2}"; }
reads() { run -C -t "$1" -o beginning -e "${@:2}"; }
# A member reads so many records and commits them when it leaves.
joins() { run -G "$1" -X auto.offset.reset=earliest -X heartbeat.interval.ms=300 -c "$2" "$3"; }

checks() {
    local name="kcat-$RANDOM$RANDOM" codec
    for codec in none gzip snappy lz4 zstd; do
        seq 1 1500 | sends "$name-$codec" -z "$codec" -p 0 || true
        check "codec-$codec" "$(seq 1 1500)" "$(reads "$name-$codec")"
    done
    printf 'k1:v1\nk2:\n' | sends "$name-keys" -K: -Z -H a=1 -H b=2 -p 0
    check keys-headers-nulls "$(printf 'k1=v1 a=1,b=2 0\nk2=NULL a=1,b=2 1')" \
        "$(reads "$name-keys" -Z -f '%k=%s %h %o\n')"
    check metadata 1 "$(kcat -b "$address" -L -t "$name-keys" | grep -c "topic \"$name-keys\" with 1 partitions")"
    local later=$(($(date +%s%3N) + 3600000))
    check offset-of-a-time "$name-keys [0] offset -1" "$(run -Q -t "$name-keys:0:$later" | tr -d '\r')"
    check group-reads-everything "$(seq 1 1500)" "$(joins "$name-group" 1500 "$name-none")"
    echo new | sends "$name-none" -p 0
    check group-goes-on-at-its-commits new "$(joins "$name-group" 1 "$name-none")"
}

consume() {
    # Not run by `timeout`, and in the background, so that it is told to end when the input closes.
    kcat -u -b "$address" -G "$group" -X auto.offset.reset=earliest -X heartbeat.interval.ms=300 \
        -X partition.assignment.strategy=range -f '%p\t%o\t%k\t%s\n' "$topic" \
        2> >(sed -un -e 's/.* assigned: \(.*\)/\1/p' -e 's/.* revoked: .*//p' | owned) &
    member=$!
    cat >/dev/null || true
    kill "$member"
    wait "$member"
}

# Turns `topic [0], topic [3]` into what members tell: `=`, tab, `0,3`.
owned() {
    while read -r line; do
        printf '=\t%s\n' "$(grep -o '\[[0-9]*\]' <<<"$line" | tr -d '[]' | paste -sd, || true)"
    done
}

case "$command" in
check) checks ;;
produce) kcat -q -b "$address" -P -t "$topic" -K '\t' -X enable.idempotence=true ;;
consume) consume ;;
esac
exit "$failed"
