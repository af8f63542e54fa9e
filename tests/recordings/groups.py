"""Records what Apache Kafka answers to sequences of group and offset requests.

    python3 groups.py HOST:PORT > classic-VERSION.jsonl

A line is one request with its answer; a scenario has a group of its own. The broker must have
group.initial.rebalance.delay.ms=0 and group.min.session.timeout.ms=1000, and no topic "orders". Member ids are replaced
by $1, $2, ... in the order in which they are first seen. Requests are encoded by hand, in versions without tagged fields.
"""

import json
import socket
import struct
import sys
import time


class Connection:
    def __init__(self, address):
        host, port = address.split(":")
        self.socket = socket.create_connection((host, int(port)))
        self.correlation = 0

    def send(self, api, version, body):
        self.correlation += 1
        header = struct.pack(">hhi", api, version, self.correlation) + string("client")
        self.socket.sendall(struct.pack(">i", len(header + body)) + header + body)

    def receive(self, timeout=None):
        self.socket.settimeout(timeout)
        size = struct.unpack(">i", self.exactly(4))[0]
        return Reader(self.exactly(size)[4:])

    def exactly(self, count):
        out = b""
        while len(out) < count:
            more = self.socket.recv(count - len(out))
            if not more:
                raise EOFError("the broker closed the connection")
            out += more
        return out


class Reader:
    def __init__(self, data):
        self.data = data

    def take(self, count):
        out, self.data = self.data[:count], self.data[count:]
        return out

    def number(self, form):
        return struct.unpack(">" + form, self.take(struct.calcsize(">" + form)))[0]

    def string(self):
        length = self.number("h")
        return None if length < 0 else self.take(length).decode()

    def bytes(self):
        length = self.number("i")
        return "" if length < 0 else self.take(length).hex()

    def list(self, item):
        return [item() for _ in range(max(self.number("i"), 0))]


def string(text):
    if text is None:
        return struct.pack(">h", -1)
    return struct.pack(">h", len(text.encode())) + text.encode()


def octets(data):
    return struct.pack(">i", len(data)) + data


def array(items):
    return struct.pack(">i", len(items)) + b"".join(items)


SUBSCRIPTION = b"\0\0\0\0\0\x01\0\x06orders\xff\xff\xff\xff"


class Recorder:
    def __init__(self, address):
        self.address = address
        self.main = Connection(address)
        self.calls = {}
        self.names = {}

    def scenario(self, name):
        self.names = {}
        self.group = "group-" + name.replace(" ", "-")
        print(json.dumps({"scenario": name}))

    def known(self, member):
        """The member id behind a name such as $1."""
        return {v: k for k, v in self.names.items()}.get(member, member)

    def named(self, member):
        if not member or member == "stranger":
            return member
        return self.names.setdefault(member, "$%d" % (len(self.names) + 1))

    def call(self, api, version, body):
        self.main.send(api, version, body)
        return self.main.receive(30)

    def note(self, op, request, answer):
        print(json.dumps({"op": op, **request, "answer": answer}))
        return answer

    def join(self, member="", instance=None, version=5, protocols=("range",), kind="consumer", session=10_000,
             rebalance=60_000, call=None):
        request = {"member": member, "instance": instance, "version": version, "protocols": list(protocols),
                   "type": kind, "session": session, "rebalance": rebalance}
        body = string(self.group) + struct.pack(">ii", session, rebalance) + string(self.known(member))
        if version >= 5:
            body += string(instance)
        body += string(kind) + array([string(p) + octets(SUBSCRIPTION) for p in protocols])
        connection = Connection(self.address)
        connection.send(11, version, body)
        if call is not None:
            self.calls[call] = ("join", connection, version)
            print(json.dumps({"op": "send_join", "call": call, **request}))
            time.sleep(0.3)
            return None
        return self.note("join", request, self.read_join(connection, version))

    def read_join(self, connection, version):
        r = connection.receive(30)
        r.number("i")
        error, generation, protocol, leader, member = r.number("h"), r.number("i"), r.string(), r.string(), r.string()
        def one():
            name = r.string()
            if version >= 5:
                r.string()
            r.bytes()
            return name
        members = r.list(one)
        answer = {"error": error, "generation": generation, "protocol": protocol or "", "member": self.named(member)}
        answer["leader"] = self.named(leader)
        answer["members"] = sorted(self.named(m) for m in members)
        return answer

    def sync(self, member, generation, shares=(), instance=None, call=None):
        request = {"member": member, "generation": generation, "instance": instance, "shares": dict(shares)}
        body = string(self.group) + struct.pack(">i", generation) + string(self.known(member)) + string(instance)
        body += array([string(self.known(m)) + octets(bytes.fromhex(a)) for m, a in dict(shares).items()])
        connection = Connection(self.address)
        connection.send(14, 3, body)
        if call is not None:
            self.calls[call] = ("sync", connection, 3)
            print(json.dumps({"op": "send_sync", "call": call, **request}))
            time.sleep(0.3)
            return None
        return self.note("sync", request, self.read_sync(connection))

    def read_sync(self, connection):
        r = connection.receive(30)
        r.number("i")
        return {"error": r.number("h"), "assignment": r.bytes()}

    def take(self, call):
        kind, connection, version = self.calls.pop(call)
        answer = self.read_join(connection, version) if kind == "join" else self.read_sync(connection)
        return self.note("take_" + kind, {"call": call}, answer)

    def heartbeat(self, member, generation, instance=None):
        body = string(self.group) + struct.pack(">i", generation) + string(self.known(member)) + string(instance)
        r = self.call(12, 3, body)
        r.number("i")
        request = {"member": member, "generation": generation, "instance": instance}
        return self.note("heartbeat", request, {"error": r.number("h")})

    def leave(self, *members):
        body = string(self.group) + array([string(self.known(m)) + string(i) for m, i in members])
        r = self.call(13, 3, body)
        r.number("i")
        error = r.number("h")
        def one():
            r.string(), r.string()
            return r.number("h")
        answer = {"error": error, "errors": r.list(one)}
        return self.note("leave", {"members": [list(m) for m in members]}, answer)

    def commit(self, offset, member="", generation=-1, instance=None, metadata=""):
        partition = struct.pack(">iqi", 0, offset, -1) + string(metadata)
        body = string(self.group) + struct.pack(">i", generation) + string(self.known(member)) + string(instance)
        body += array([string("orders") + array([partition])])
        r = self.call(8, 7, body)
        r.number("i")
        def topic():
            r.string()
            return r.list(lambda: (r.number("i"), r.number("h"))[1])
        error = r.list(topic)[0][0]
        request = {"offset": offset, "member": member, "generation": generation, "instance": instance,
                   "metadata": len(metadata)}
        return self.note("commit", request, {"error": error})

    def fetch(self):
        r = self.call(9, 5, string(self.group) + array([string("orders") + array([struct.pack(">i", 0)])]))
        r.number("i")
        def partition():
            r.number("i")
            offset = r.number("q")
            r.number("i"), r.string()
            return offset, r.number("h")
        def topic():
            r.string()
            return r.list(partition)
        offset, error = r.list(topic)[0][0]
        return self.note("fetch", {}, {"error": r.number("h") or error, "offset": offset})

    def describe(self):
        r = self.call(15, 4, array([string(self.group)]) + b"\0")
        r.number("i")
        def group():
            error, _, state, kind, protocol = r.number("h"), r.string(), r.string(), r.string(), r.string()
            def member():
                name = r.string()
                r.string(), r.string(), r.string()
                metadata, assignment = r.bytes(), r.bytes()
                return [self.named(name), metadata, assignment]
            members = sorted(r.list(member))
            r.number("i")
            return {"error": error, "state": state, "type": kind, "protocol": protocol, "members": members}
        return self.note("describe", {}, r.list(group)[0])

    def delete(self):
        r = self.call(42, 1, array([string(self.group)]))
        r.number("i")
        return self.note("delete", {}, {"error": r.list(lambda: (r.string(), r.number("h"))[1])[0]})

    def delete_offsets(self):
        body = string(self.group) + array([string("orders") + array([struct.pack(">i", 0)])])
        r = self.call(47, 0, body)
        error = r.number("h")
        r.number("i")
        def topic():
            r.string()
            return r.list(lambda: (r.number("i"), r.number("h"))[1])
        topics = r.list(topic)
        return self.note("delete_offsets", {}, {"error": error or topics[0][0]})

    def wait(self, seconds):
        print(json.dumps({"op": "wait", "seconds": seconds}))
        time.sleep(seconds + 0.4)

    def create_topic(self, is_noted=True):
        topic = string("orders") + struct.pack(">ih", 1, 1) + array([]) + array([])
        self.call(19, 2, array([topic]) + struct.pack(">i?", 10_000, False))
        time.sleep(1)
        if is_noted:
            print(json.dumps({"op": "create_topic"}))

    def delete_topic(self):
        self.call(20, 1, array([string("orders")]) + struct.pack(">i", 10_000))
        time.sleep(1)
        print(json.dumps({"op": "delete_topic"}))

    def find_coordinator(self):
        for _ in range(60):
            r = self.call(10, 2, string("any") + b"\0")
            r.number("i")
            if r.number("h") == 0:
                return
            time.sleep(0.5)
        raise SystemExit("no coordinator")


def two_members(k):
    k.join()
    k.join("$1")
    k.sync("$1", 1, {"$1": "01"})
    k.join(call="new", version=3)
    k.heartbeat("$1", 1)
    k.join("$1")
    k.take("new")
    k.sync("$2", 2, call="follower")
    k.sync("$1", 2, {"$1": "01", "$2": "02"})
    k.take("follower")


def record(address):
    k = Recorder(address)
    k.create_topic(False)
    k.find_coordinator()
    time.sleep(2)

    k.scenario("two members")
    two_members(k)
    k.describe()
    k.heartbeat("$1", 2)
    k.sync("$2", 2)
    k.join("$2")
    k.heartbeat("$1", 2)
    k.leave(("$2", None))
    k.heartbeat("$1", 2)
    k.sync("$1", 2)
    k.leave(("$1", None), ("other", None))
    k.describe()
    k.delete()
    k.delete()
    k.describe()

    k.scenario("strangers")
    k.join("stranger")
    k.heartbeat("stranger", 0)
    k.sync("stranger", 0)
    k.leave(("stranger", None))
    k.commit(5, "stranger", 3)
    k.fetch()
    k.delete_offsets()
    k.join(session=500)
    k.join(session=10_000_000)
    k.join(protocols=())
    k.join(kind="")
    two_members(k)
    k.join("stranger")
    k.join(kind="connect")
    k.join(protocols=("sticky",))
    k.heartbeat("stranger", 2)
    k.heartbeat("$1", 1)
    k.heartbeat("$1", 3)
    k.sync("$1", 1)
    k.sync("stranger", 2)
    k.leave(("stranger", None), ("", None))
    k.delete()

    k.scenario("commits")
    k.commit(5)
    k.fetch()
    k.describe()
    k.commit(6, "stranger", 1)
    k.commit(7, metadata="x" * 4096)
    k.commit(8, metadata="x" * 4097)
    k.fetch()
    two_members(k)
    k.commit(9)
    k.commit(9, "stranger", 2)
    k.commit(9, "$1", 1)
    k.commit(9, "$1", -1)
    k.commit(9, "", 2)
    k.commit(10, "$1", 2)
    k.delete_offsets()
    k.join(call="third", version=3)
    k.commit(11, "$1", 2)
    k.join("$1", call="first")
    k.commit(12, "$1", 2)
    k.join("$2")
    k.take("first")
    k.take("third")
    k.commit(13, "$1", 3)
    k.commit(13, "$1", 2)
    k.fetch()
    k.leave(("$1", None), ("$2", None), ("$3", None))
    k.delete_offsets()
    k.fetch()

    k.scenario("static members")
    k.join(instance="i1")
    k.sync("$1", 1, {"$1": "05"}, "i1")
    k.join(instance="i1")
    k.describe()
    k.heartbeat("$1", 1, "i1")
    k.heartbeat("$1", 1)
    k.heartbeat("$2", 1, "i1")
    k.heartbeat("$2", 1, "i2")
    k.sync("$1", 1, instance="i1")
    k.sync("$2", 1, instance="i1")
    k.commit(5, "$1", 1, "i1")
    k.commit(5, "$2", 1, "i2")
    k.commit(6, "$2", 1, "i1")
    k.join("$1", instance="i1")
    k.join("$2", instance="i2")
    k.leave(("$1", "i1"), ("", "i2"), ("", "i1"))
    k.describe()
    k.fetch()

    k.scenario("sessions")
    k.join(session=2_000)
    k.join("$1", session=2_000)
    k.sync("$1", 1, {"$1": "01"})
    k.heartbeat("$1", 1)
    k.wait(3)
    k.heartbeat("$1", 1)
    k.describe()
    k.join("$1")
    k.commit(4)
    k.join(session=2_000)
    k.wait(3)
    k.join("$2")

    k.scenario("slow members")
    k.join(session=20_000, rebalance=2_000)
    k.join("$1", session=20_000, rebalance=2_000)
    k.sync("$1", 1, {"$1": "01"})
    k.join(call="new", version=3, session=20_000, rebalance=2_000)
    k.wait(3)
    k.take("new")
    k.heartbeat("$1", 1)
    k.heartbeat("$2", 2)
    k.wait(3)
    k.heartbeat("$2", 2)
    k.describe()

    k.scenario("joins while the leader assigns")
    k.join()
    k.join("$1")
    k.join("$1")
    k.commit(1, "$1", 1)
    k.describe()
    k.join("$1", protocols=("sticky",))
    k.join("$1", protocols=("sticky", "range"))
    k.sync("$1", 2, {"$1": "03"})

    k.scenario("topic made anew")
    k.commit(5)
    k.delete_topic()
    k.create_topic()
    k.fetch()
    k.describe()


if __name__ == "__main__":
    record(sys.argv[1])
