"""Records what Apache Kafka answers to sequences of requests to groups of the consumer protocol (KIP-848).

    python3 consumer_groups.py HOST:PORT > consumer-VERSION.jsonl

A line is one request with its answer, as in `groups.py`. The broker must have

    group.consumer.migration.policy=disabled   (a group with members is of one kind)
    group.consumer.session.timeout.ms=6000
    group.consumer.heartbeat.interval.ms=1000
    group.min.session.timeout.ms=1000
    group.initial.rebalance.delay.ms=0

    unstable.api.versions.enable=true          (OffsetCommit and OffsetFetch 10)

and no topics. Members choose their ids (m1, m2, ...); one that the coordinator gave out is $1, $2, .... Topics stand for
their ids. Requests are encoded by hand, in versions with tagged fields.
"""

import json
import struct
import sys
import time

from groups import Connection, Reader, Recorder, string


def uvarint(value):
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def text(value):
    if value is None:
        return b"\0"
    return uvarint(len(value.encode()) + 1) + value.encode()


def many(items):
    if items is None:
        return b"\0"
    return uvarint(len(items) + 1) + b"".join(items)


def ints(values):
    return many([struct.pack(">i", v) for v in values])


NO_TAGS = b"\0"


class Flexible(Reader):
    """Reads compact lengths, and skips tagged fields."""

    def uvarint(self):
        value = shift = 0
        while True:
            byte = self.number("B")
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    def string(self):
        length = self.uvarint()
        return None if length == 0 else self.take(length - 1).decode()

    def list(self, item):
        return [item() for _ in range(max(self.uvarint() - 1, 0))]

    def tags(self):
        for _ in range(self.uvarint()):
            self.uvarint()
            self.take(self.uvarint())

    def with_tags(self, value):
        self.tags()
        return value


class ConsumerRecorder(Recorder):
    def __init__(self, address):
        super().__init__(address)
        self.topics = {}

    def named(self, member):
        if member and member[0] == "m" and member[1:].isdigit():
            return member
        return super().named(member)

    def ask(self, api, version, body):
        connection = self.main
        connection.correlation += 1
        header = struct.pack(">hhi", api, version, connection.correlation) + string("client") + NO_TAGS
        connection.socket.sendall(struct.pack(">i", len(header + body)) + header + body)
        reader = Flexible(connection.receive(30).data)
        reader.tags()
        return reader

    def topic_name(self, topic_id):
        return next((n for n, i in self.topics.items() if i == topic_id), "gone")

    def partitions(self, r, has_names=False):
        def one():
            topic = self.topic_name(r.take(16))
            if has_names:
                r.string()
            return topic, r.with_tags(r.list(lambda: r.number("i")))
        return {topic: sorted(held) for topic, held in r.list(one)}

    def make(self, name, partitions, is_noted=True):
        body = text(name) + struct.pack(">ih", partitions, 1) + many([]) + many([]) + NO_TAGS
        r = self.ask(19, 7, many([body]) + struct.pack(">i?", 10_000, False) + NO_TAGS)
        r.number("i")
        self.topics[name] = r.list(lambda: (r.string(), r.take(16))[1])[0]
        time.sleep(1)
        if is_noted:
            print(json.dumps({"op": "make_topic", "topic": name, "partitions": partitions}))

    def grow(self, name, partitions):
        body = many([text(name) + struct.pack(">i", partitions) + many(None) + NO_TAGS])
        self.ask(37, 2, body + struct.pack(">i?", 10_000, False) + NO_TAGS)
        time.sleep(1)
        print(json.dumps({"op": "grow_topic", "topic": name, "partitions": partitions}))

    def beat(self, member, epoch, owned=None, topics=None, instance=None, rack=None, rebalance=-1, assignor=None,
             regex=None, version=1):
        request = {"member": member, "epoch": epoch, "owned": owned, "topics": topics, "instance": instance,
                   "rack": rack, "rebalance": rebalance, "assignor": assignor, "regex": regex, "version": version}
        body = text(self.group) + text(self.known(member)) + struct.pack(">i", epoch) + text(instance) + text(rack)
        body += struct.pack(">i", rebalance) + many(None if topics is None else [text(t) for t in topics])
        if version >= 1:
            body += text(regex)
        body += text(assignor)
        held = None if owned is None else [self.topics[t] + ints(p) + NO_TAGS for t, p in owned.items()]
        r = self.ask(68, version, body + many(held) + NO_TAGS)
        r.number("i")
        error = r.number("h")
        r.string()
        who, now, interval = r.string(), r.number("i"), r.number("i")
        assigned = self.partitions(r) if r.number("b") >= 0 else None
        answer = {"error": error}
        if error == 0:
            answer.update(member=self.named(who), epoch=now, interval=interval, assigned=assigned)
        return self.note("beat", request, answer)

    def first(self, member, topics=("orders",), version=1, rebalance=60_000, **more):
        return self.beat(member, 0, {}, list(topics), rebalance=rebalance, version=version, **more)

    def commit(self, offset, member="", epoch=-1, instance=None, topic="orders", version=9):
        partition = struct.pack(">iqi", 0, offset, -1) + text("") + NO_TAGS
        name = self.topics[topic] if version >= 10 else text(topic)
        body = text(self.group) + struct.pack(">i", epoch) + text(self.known(member)) + text(instance)
        r = self.ask(8, version, body + many([name + many([partition]) + NO_TAGS]) + NO_TAGS)
        r.number("i")
        def of_topic():
            r.take(16) if version >= 10 else r.string()
            return r.with_tags(r.list(lambda: (r.number("i"), r.with_tags(r.number("h")))[1]))
        request = {"offset": offset, "member": member, "epoch": epoch, "instance": instance, "topic": topic,
                   "version": version}
        return self.note("commit_offset", request, {"error": r.list(of_topic)[0][0]})

    def fetch(self, member=None, epoch=-1, topic="orders", is_all=False, version=9):
        name = self.topics[topic] if version >= 10 else text(topic)
        topics = many(None if is_all else [name + ints([0]) + NO_TAGS])
        group = text(self.group) + text(member and self.known(member)) + struct.pack(">i", epoch) + topics + NO_TAGS
        r = self.ask(9, version, many([group]) + b"\0" + NO_TAGS)
        r.number("i")
        def partition():
            r.number("i")
            offset = r.number("q")
            r.number("i"), r.string()
            return [offset, r.with_tags(r.number("h"))]
        def of_topic():
            name = self.topic_name(r.take(16)) if version >= 10 else r.string()
            return [name, *r.with_tags(r.list(partition))]
        def of_group():
            r.string()
            topics = r.list(of_topic)
            return {"error": r.with_tags(r.number("h")), "offsets": topics}
        request = {"member": member, "epoch": epoch, "topic": topic, "all": is_all, "version": version}
        return self.note("fetch_offsets", request, r.list(of_group)[0])

    def describe(self):
        r = self.ask(69, 1, many([text(self.group)]) + b"\0" + NO_TAGS)
        r.number("i")
        def member():
            name, instance, rack, epoch = r.string(), r.string(), r.string(), r.number("i")
            r.string(), r.string()
            topics, regex = r.list(r.string), r.string()
            assigned = r.with_tags(self.partitions(r, True))
            target = r.with_tags(self.partitions(r, True))
            r.number("b"), r.tags()
            return {"member": self.named(name), "instance": instance, "rack": rack, "epoch": epoch,
                    "topics": sorted(topics), "regex": regex or None, "assigned": assigned, "target": target}
        def group():
            error = r.number("h")
            r.string(), r.string()
            state, epoch, made_for, assignor = r.string(), r.number("i"), r.number("i"), r.string()
            members = sorted(r.list(member), key=lambda m: m["member"])
            r.number("i"), r.tags()
            if error:
                return {"error": error}
            return {"error": 0, "state": state, "epoch": epoch, "made_for": made_for, "assignor": assignor,
                    "members": members}
        return self.note("describe_consumer", {}, r.list(group)[0])

    def describe_classic(self):
        return super().describe()

    def list(self, states=(), types=()):
        body = many([text(s) for s in states]) + many([text(t) for t in types]) + NO_TAGS
        r = self.ask(16, 5, body)
        r.number("i")
        error = r.number("h")
        groups = r.list(lambda: r.with_tags([r.string(), r.string(), r.string(), r.string()]))
        mine = [rest for name, *rest in groups if name == self.group]
        request = {"states": list(states), "types": list(types)}
        return self.note("list", request, {"error": error, "group": mine[0] if mine else None})


def alone_and_together(k):
    k.scenario("one member, then two")
    k.first("m1")
    k.beat("m1", 1)
    k.beat("m1", 1, {"orders": [0, 1, 2, 3]})
    k.describe()
    k.list()
    k.list(["stable"], ["consumer"])
    k.list(["Empty"])
    k.list([], ["classic"])
    k.describe_classic()
    k.first("m2")
    k.describe()
    k.beat("m2", 2)
    k.beat("m1", 1)
    k.beat("m1", 1, {"orders": [0, 1, 2, 3]})
    k.describe()
    k.beat("m2", 2)
    k.beat("m1", 1, {"orders": [0, 1]})
    k.beat("m2", 2)
    k.beat("m2", 2, {"orders": [2, 3]})
    k.describe()
    k.delete()
    k.beat("m2", -1)
    k.describe()
    k.beat("m1", 2)
    k.beat("m1", 3)
    k.describe()
    k.beat("m1", -1)
    k.describe()
    k.list()
    k.beat("m1", 3)
    k.delete()
    k.describe()
    k.beat("m1", 3)

    k.scenario("ids given out")
    k.first("", version=0)
    k.beat("$1", 1, version=0)
    k.first("", version=1)
    k.beat("", 1)
    k.beat("", 1, version=0)


def epochs(k):
    k.scenario("epochs")
    k.beat("m1", 1)
    k.beat("m1", -1)
    k.first("m1")
    k.beat("stranger", 1)
    k.beat("stranger", -1)
    k.beat("m1", 2)
    k.beat("m1", 99)
    k.first("m2")
    k.beat("m1", 1, {"orders": [0, 1, 2, 3]})
    k.beat("m1", 1, {"orders": [0, 1]})
    k.beat("m1", 1, {"orders": [0, 1]})
    k.beat("m1", 1, {"orders": []})
    k.beat("m1", 1, {"orders": [0, 1, 2]})
    k.beat("m1", 1)
    k.beat("m1", 0, {}, ["orders"], rebalance=60_000)
    k.describe()
    k.beat("m2", 2)
    k.beat("m2", -2)
    k.beat("m2", -3)

    k.scenario("requests")
    k.beat("m1", 0, {}, ["orders"])
    k.beat("m1", 0, None, ["orders"], rebalance=1_000)
    k.beat("m1", 0, {"orders": [0]}, ["orders"], rebalance=1_000)
    k.beat("m1", 0, {}, None, rebalance=1_000)
    k.first("m1", [])
    k.describe()
    k.beat("m1", 1, topics=["orders"])
    k.beat("m1", 2, topics=[])
    k.beat("m1", 3)
    k.first("m2", assignor="none")
    k.first("m2", instance="")
    k.first("m2", rack="")
    k.first("m2", ["nowhere"])
    k.describe()
    k.first("m3", [], regex="(")
    k.beat("m2", 4, regex="[a")
    k.first("m2", ["orders", "orders"])
    k.beat("m1", 3)
    k.describe()

    k.scenario("assignors")
    k.first("m1", ["orders", "payments"], assignor="range")
    k.describe()
    k.first("m2", ["orders", "payments"], assignor="uniform")
    k.beat("m1", 1, {"orders": [0, 1], "payments": [0]})
    k.beat("m2", 2)
    k.describe()
    k.beat("m1", 2, assignor="uniform")
    k.describe()
    k.first("m3", ["payments"], assignor="range")
    k.describe()


def static_members(k):
    k.scenario("static members")
    k.first("m1", instance="i1")
    k.beat("m1", 1, instance="i1")
    k.beat("m1", 1)
    k.first("m2", instance="i1")
    k.beat("m2", 1, instance="i1")
    k.beat("m1", 1, instance="i2")
    k.commit(3, "m1", 1, "i1")
    k.beat("m1", -2, instance="i1")
    k.describe()
    k.commit(4, "m1", 1, "i1")
    k.commit(4, "m1", -2, "i1")
    k.first("m2", instance="i1")
    k.describe()
    k.beat("m1", 1, instance="i1")
    k.beat("m1", -1, instance="i1")
    k.beat("m1", -2, instance="i1")
    k.commit(5, "m1", 1, "i1")
    k.commit(6, "m2", 1, "i1")
    k.beat("m2", 1, instance="i1")
    k.beat("m2", -2, instance="i1")
    k.first("m3", instance="i1", topics=["payments"])
    k.describe()
    k.beat("m3", -1, instance="i1")
    k.first("m4", instance="i1")
    k.beat("m4", -2, instance="i1")
    k.wait(8)
    k.describe()

    k.scenario("a static member joins again with its id")
    k.first("m1", instance="i1")
    k.first("m2", instance="i2")
    k.first("m1", instance="i1")
    k.beat("m1", 1, {"orders": [0, 1]}, instance="i1")
    k.beat("m1", 2, {"orders": [0, 1]}, instance="i1")
    k.describe()


def commits(k):
    k.scenario("commits")
    k.fetch()
    k.fetch(is_all=True)
    k.commit(1)
    k.commit(2, "m1", 1)
    k.commit(2, epoch=0)
    k.list()
    k.describe()
    k.fetch()
    k.first("m1")
    k.commit(3)
    k.commit(3, "stranger", 1)
    k.commit(3, "m1", 0)
    k.commit(3, "m1", 2)
    k.commit(3, "m1", -1)
    k.commit(3, "", 1)
    k.commit(4, "m1", 1)
    k.commit(4, "m1", 1, topic="nowhere")
    k.commit(4, "m1", 1, version=8)
    k.commit(4, "m1", 0, version=8)
    k.fetch("m1", 1)
    k.fetch("m1", 0)
    k.fetch("m1", 2)
    k.fetch("m1", -1)
    k.fetch("stranger", 1)
    k.fetch("", 1)
    k.fetch("", -1)
    k.fetch(is_all=True)
    k.delete_offsets()
    k.beat("m1", -1)
    k.commit(5, "m1", 1)
    k.commit(6)
    k.commit(7, "m1", -1)
    k.fetch("m1", 1)
    k.fetch()
    k.delete_offsets()
    k.fetch()
    k.delete()

    k.scenario("commits while partitions are taken away")
    k.first("m1")
    k.first("m2")
    k.beat("m1", 1, {"orders": [0, 1, 2, 3]})
    k.commit(1, "m1", 1)
    k.beat("m1", 1, {"orders": [0, 1]})
    k.commit(2, "m1", 1)
    k.commit(3, "m1", 2)
    k.commit(4, "m2", 2)


def sessions(k):
    k.scenario("sessions")
    k.first("m1")
    k.commit(1, "m1", 1)
    k.wait(8)
    k.beat("m1", 1)
    k.commit(2, "m1", 1)
    k.describe()
    k.fetch()

    k.scenario("partitions that are not let go of")
    k.first("m1", rebalance=2_000)
    k.first("m2")
    k.beat("m1", 1, {"orders": [0, 1, 2, 3]})
    k.beat("m2", 2)
    k.wait(3)
    k.beat("m1", 1, {"orders": [0, 1, 2, 3]})
    k.beat("m2", 2)
    k.beat("m2", 3)
    k.describe()


def kinds(k):
    k.scenario("classic, then consumer")
    k.join()
    k.join("$1")
    k.sync("$1", 1, {"$1": "01"})
    k.first("m1")
    k.beat("m1", 1)
    k.describe()
    k.list()
    k.fetch("m1", 1)
    k.commit(1, "$1", 1)
    k.commit(1, "$1", 0)
    k.commit(1, "stranger", 1)
    k.leave(("$1", None))
    k.beat("m1", 1)
    k.list()
    k.first("m1")
    k.list()
    k.fetch()
    k.join()
    k.sync("$1", 1)
    k.heartbeat("$1", 1)
    k.leave(("$1", None))
    k.beat("m1", -1)
    k.describe_classic()
    k.heartbeat("$1", 1)
    k.join(version=3)
    k.list()
    k.describe()
    k.fetch()
    k.first("m1")


def topics(k):
    k.scenario("topics that grow and come")
    k.first("m1", ["orders", "returns"])
    k.make("returns", 1)
    k.beat("m1", 1)
    k.beat("m1", 2)
    k.grow("orders", 5)
    k.beat("m1", 2)
    k.beat("m1", 3)
    k.describe()

    k.scenario("topic made anew")
    k.commit(5, version=10)
    k.commit(6, topic="returns")
    k.fetch(version=10)
    k.delete_topic()
    k.make("orders", 4)
    k.fetch()
    k.fetch(version=10)
    k.fetch(is_all=True)
    k.commit(7, version=10)
    k.fetch()

    k.scenario("topic made anew under a member")
    k.first("m1")
    k.commit(1, "m1", 1, version=10)
    k.delete_topic()
    k.beat("m1", 1)
    k.make("orders", 4)
    k.beat("m1", 2)
    k.beat("m1", 2, {})
    k.beat("m1", 3)
    k.fetch()
    k.describe()


def record(address):
    k = ConsumerRecorder(address)
    k.make("orders", 4, False)
    k.make("payments", 2, False)
    k.find_coordinator()
    time.sleep(3)
    for scenarios in (alone_and_together, epochs, static_members, commits, sessions, kinds, topics):
        scenarios(k)


if __name__ == "__main__":
    record(sys.argv[1])
