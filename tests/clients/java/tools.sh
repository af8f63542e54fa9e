#!/usr/bin/env bash
# tools.sh ADDRESS: Kafka's own command-line tools, and what programs such as AKHQ ask for.
# Each line says what is checked, with which tool, what its output must match, and the arguments; where it prints
# nothing, its exit code is what is looked at. The jars lie in CLIENTS_BUILD.
set -euo pipefail
address="$1"
name="tools-$RANDOM$RANDOM"
group="$name-group"
failed=0
jvm=(java -Xmx128m -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -cp "$CLIENTS_BUILD/java:$CLIENTS_BUILD/jars/*")

declare -A classes=(
    [kafka-topics]=org.apache.kafka.tools.TopicCommand
    [kafka-configs]=kafka.admin.ConfigCommand
    [kafka-consumer-groups]=org.apache.kafka.tools.consumer.group.ConsumerGroupCommand
    [kafka-log-dirs]=org.apache.kafka.tools.LogDirsCommand
    [kafka-acls]=org.apache.kafka.tools.AclCommand
    [kafka-get-offsets]=org.apache.kafka.tools.GetOffsetShell
    [kafka-broker-api-versions]=org.apache.kafka.tools.BrokerApiVersionsCommand
    [kafka-delete-records]=org.apache.kafka.tools.DeleteRecordsCommand
    [kafka-groups]=org.apache.kafka.tools.GroupsCommand
)

tell() { # NAME WANTED OUTPUT
    # Not `grep -q`, which would leave before all is written.
    if grep -E -- "$2" <<<"$3" >/dev/null; then
        echo "ok $1"
    else
        echo "FAIL $1: nothing matches '$2' in: $(tr '\n' ' ' <<<"${3:0:600}")"
        failed=1
    fi
}

tool() { # NAME TOOL WANTED ARGUMENT…
    local output status=0
    output="$(timeout 60 "${jvm[@]}" "${classes[$2]}" --bootstrap-server "$address" "${@:4}" 2>&1)" || status=$?
    tell "$1" "$3" "$output"$'\n'"exit $status"
}

topics() {
    tool topics-create kafka-topics "Created topic $name" \
        --create --topic "$name" --partitions 3 --config retention.ms=3600000
    tool topics-alter kafka-topics '^exit 0$' --alter --topic "$name" --partitions 5
    tool topics-describe kafka-topics 'PartitionCount: 5.*retention.ms=3600000' --describe --topic "$name"
    tool topics-list kafka-topics "^$name\$" --list
    tool configs-alter kafka-configs 'Completed updating config' --alter --entity-type topics --entity-name "$name" \
        --add-config max.message.bytes=200000
    tool configs-describe kafka-configs 'max.message.bytes=200000' \
        --describe --entity-type topics --entity-name "$name"
    tool configs-of-the-broker kafka-configs 'log.retention' --describe --entity-type brokers --entity-name 1 --all
    tool log-dirs kafka-log-dirs "\"partition\":\"$name-4\"" --describe --topic-list "$name"
}

offsets() {
    seq 10 | sed 's/.*/key\t&/' | "${jvm[@]}" Clients produce "$address" "$name"
    tool get-offsets kafka-get-offsets "^$name:[0-4]:10\$" --topic "$name"
    tool groups-reset-to-latest kafka-consumer-groups "$name +[0-4] +10" \
        --group "$group" --reset-offsets --to-latest --topic "$name" --execute
    tool consumer-groups-list kafka-consumer-groups "^$group\$" --list
    tool groups-list kafka-groups "^$group +" --list
    tool consumer-groups-describe kafka-consumer-groups "$group +$name +[0-4] +10 +10 +0 " --group "$group" --describe
    tool consumer-groups-state kafka-consumer-groups "$group +.*Empty +0" --group "$group" --describe --state
    tool groups-delete-offsets kafka-consumer-groups 'Successful' --group "$group" --delete-offsets --topic "$name"
    tool groups-reset-to-earliest kafka-consumer-groups "$name +[0-4] +0" \
        --group "$group" --reset-offsets --to-earliest --topic "$name" --execute
    tool groups-delete kafka-consumer-groups 'Deletion .* successful' --group "$group" --delete
    local file="$CLIENTS_BUILD/$name.json"
    echo "{\"version\": 1, \"partitions\": [{\"topic\": \"$name\", \"partition\": 0, \"offset\": -1}]}" >"$file"
    tool delete-records kafka-delete-records 'partition: .*low_watermark: [0-9]+' --offset-json-file "$file"
    rm "$file"
}

cluster() {
    tool acls-say-that-security-is-disabled kafka-acls 'SecurityDisabledException' --list
    tool broker-api-versions kafka-broker-api-versions 'ConsumerGroupHeartbeat\(68\): 0 to 1'
    local output
    output="$("${jvm[@]}" org.apache.kafka.tools.ClusterTool cluster-id --bootstrap-server "$address" 2>&1)" || true
    tell cluster-id '^Cluster ID: .+' "$output"
    output="$("${jvm[@]}" org.apache.kafka.tools.ClusterTool list-endpoints \
        --bootstrap-server "$address" 2>&1)" || true
    tell list-endpoints '^1 +127\.0\.0\.1 +[0-9]+ .*unfenced' "$output"
}

topics
offsets
cluster
tool topics-delete kafka-topics '^exit 0$' --delete --topic "$name"
tool topic-is-gone kafka-topics 'does not exist as expected' --describe --topic "$name"
exit "$failed"
