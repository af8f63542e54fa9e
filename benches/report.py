#!/usr/bin/env python3
"""Makes the charts and the figures of RESULTS.md from benches/results/*.json.

benches/report.py [DIR]   DIR tells the file system that was measured; without it the machine's description and
the date of results/machine.json stay as they are.
"""
import datetime
import html
import json
import os
import pathlib
import platform
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
RESULTS = HERE / "results"
BEGIN, END = "<!-- figures: made by report.py -->\n", "<!-- end of figures -->\n"


def load(name):
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def machine(folder):
    def first(path, key):
        for line in open(path):
            if line.startswith(key):
                return line.split(":", 1)[1].strip()
        return "unknown"

    mounts = [line.split() for line in open("/proc/mounts")]
    real = os.path.realpath(folder)
    holding = [m for m in mounts if (real + "/").startswith(m[1].rstrip("/") + "/")]
    file_system = max(holding, key=lambda m: len(m[1]))[2] if holding else "unknown"
    rust = subprocess.run(["rustc", "--version"], capture_output=True, text=True).stdout.split()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=HERE
    ).stdout.strip()
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": first("/proc/cpuinfo", "model name"),
        "cores": os.cpu_count(),
        "memory_gib": round(int(first("/proc/meminfo", "MemTotal").split()[0]) / 2**20),
        "kernel": f"{platform.system()} {platform.release().split('-')[0]}",
        "virtual": "hypervisor" in first("/proc/cpuinfo", "flags"),
        "file_system": file_system,
        "rust": rust[1] if len(rust) > 1 else "unknown",
        "commit": commit,
    }


def number(value):
    if value is None:
        return "-"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def ms(micros):
    return f"{micros / 1e3:.3g} ms"


def rows():
    """(what, figure, goal, reached, beside it, command)"""
    found = []
    for figure in (load("targets") or {"figures": []})["figures"]:
        goal = figure["goal"]
        parts = "; ".join(f"{p['label']} {number(p['value'])} {p['unit']}" for p in figure["parts"])
        told = f"{number(figure['value'])} {figure['unit']}"
        name = {"append": "append", "grpc_produce": "produce", "grpc_fetch": "fetch", "acks": "commit"}
        which = next((v for k, v in name.items() if figure["name"].startswith(k)), "client")
        command = f"cargo bench --bench targets -- {which}"
        free = "inf" in goal
        found.append((figure["what"], told, "" if free else goal, None if free else figure["reached"], parts, command))

    def start(key, what, limit):
        data = load("start")
        if data and key in data:
            times = data[key]
            found.append((what, ms(times["p50_us"]), f"< {limit} ms", times["p50_us"] < limit * 1e3,
                          f"median of {times['count']}; p99 {ms(times['p99_us'])}, max {ms(times['max_us'])}",
                          "logweir bench start --iterations 200"))

    start("memory", "in-memory start to the first acknowledged record, no listeners", 1)
    start("memory_ports", "the same with listeners, by a client that connects", 3)
    start("disk", "the same on disk, in an empty folder", 30)
    start("serve", "`logweir serve` in an empty folder to its ready line", 50)
    start("serve_again", "`logweir serve` after an orderly end to its ready line", 50)
    for name, partitions, mib in (("idle-1000", 1000, 25), ("idle-10000", 10000, 200), ("idle-consumers", 1000, None)):
        data = load(name)
        if not data:
            continue
        memory = (data["anonymous_bytes"] + data["page_table_bytes"]) / 2**20
        who = f"idle broker, {partitions:,} partitions, {data['consumers']:,} waiting reader{'s' * (data['consumers'] > 1)}"
        command = f"logweir bench idle --partitions {partitions} --consumers {data['consumers']} --settle 75s --duration 60s"
        cpu = data["cpu_percent_of_a_core"]
        limited = partitions == 1000 and mib is not None
        found.append((f"{who}: processor time", f"{cpu:.3f} % of a core", "< 0.1 %" if limited else "",
                      cpu < 0.1 if limited else None, f"over {data['elapsed_seconds']:.0f} s", command))
        found.append((f"{who}: anonymous memory and page tables", f"{memory:.1f} MiB",
                      f"< {mib} MiB" if mib else "", memory < mib if mib else None,
                      f"page tables {data['page_table_bytes'] / 2**20:.1f} MiB, {data['threads']} threads", command))
    data = load("group-100")
    if data:
        seconds = data["rebalanced_seconds"]
        found.append(("group of 100 members over 1,000 partitions, one leaves: until the others have all of them",
                      f"{seconds * 1000:.1f} ms", "< 500 ms", seconds < 0.5,
                      f"processor time {data['rebalance_cpu_seconds'] * 1000:.0f} ms; all joined within {data['joined_seconds']:.2f} s",
                      "logweir bench group --members 100 --partitions 1000"))
    data = load("group-1000")
    if data:
        cpu = data["idle_cpu_percent_of_a_core"]
        found.append(("1,000 idle members of a group: processor time", f"{cpu:.3f} % of a core", "< 1 %", cpu < 1,
                      f"over {data['idle_seconds']:.0f} s; a heartbeat each in 5 s, at times of its own",
                      "logweir bench group --members 1000 --partitions 1000 --settle 75s --duration 60s"))
    data = load("start-10000")
    if data:
        for key, words in (("after_end", "after SIGTERM"), ("after_kill", "after kill -9")):
            times = data[key]
            found.append((f"start with 10,000 partitions {words}", ms(times["p50_us"]), "< 2,000 ms",
                          times["p50_us"] < 2e6, f"median of {times['count']}; max {ms(times['max_us'])}",
                          "logweir bench start --partitions 10000"))
    data = load("kill-10gib")
    if data:
        times = data["after_kill"]
        found.append((f"ready after kill -9 with {data['log_bytes'] / 2**30:.0f} GiB of log", ms(times["p50_us"]),
                      "< 1,000 ms", times["max_us"] < 1e6, f"median of {times['count']}; max {ms(times['max_us'])}",
                      "logweir bench start --log-bytes 10GiB"))
    return found


def load_rows():
    for name, flags in (
        ("produce-100b", "produce --spawn --flush os --records 10000000"),
        ("consume-100b", "consume --spawn --flush os --records 10000000"),
        ("latency-1000", "latency --spawn --rate 1000 --duration 20s"),
        ("latency-500000", "latency --spawn --flush os --rate 500000 --duration 20s"),
    ):
        data = load(name)
        if data:
            times = data.get("end_to_end") or data.get("latency") or data.get("batch_wait")
            yield (f"`logweir bench {flags}`", number(data["records_per_second"]), number(data["mb_per_second"]),
                   *(ms(times[q]) for q in ("p50_us", "p99_us", "p99_9_us", "max_us")),
                   f"{data['broker_cpu_seconds_per_gb']:.2f}",
                   f"{data['broker_peak_anonymous_bytes'] / 2**20:.1f}")


def table(heads, body):
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return "\n".join(lines + ["| " + " | ".join(str(c) for c in row) + " |" for row in body]) + "\n"


def chart(path, title, bars, unit):
    """Horizontal bars, a pair (or more) for each thing: [(label, [(series, value)])]."""
    colours = {"Logweir": "#2563eb", "base": "#9ca3af"}
    row, left, width = 22, 250, 420
    most = max((value for _, pair in bars for _, value in pair), default=1) or 1
    height = 50 + sum(len(pair) * row + 12 for _, pair in bars) + 26
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 110}" height="{height}" '
           'font-family="sans-serif" font-size="13">',
           '<rect width="100%" height="100%" fill="white"/>',
           f'<text x="12" y="24" font-size="15" font-weight="bold">{html.escape(title)}</text>']
    y = 44
    for label, pair in bars:
        out.append(f'<text x="{left - 10}" y="{y + len(pair) * row / 2 + 4}" text-anchor="end">{html.escape(label)}</text>')
        for series, value in pair:
            length = max(value / most * width, 1)
            out.append(f'<rect x="{left}" y="{y + 2}" width="{length:.1f}" height="{row - 4}" fill="{colours[series]}"/>')
            out.append(f'<text x="{left + length + 6:.1f}" y="{y + row - 7}">{number(value)} {html.escape(unit)}</text>')
            y += row
        y += 12
    x = left
    for series, colour in colours.items():
        if any(name == series for _, pair in bars for name, _ in pair):
            out.append(f'<rect x="{x}" y="{y}" width="12" height="12" fill="{colour}"/>'
                       f'<text x="{x + 18}" y="{y + 11}">{series}</text>')
            x += 110
    out.append("</svg>\n")
    path.write_text("\n".join(out))


def charts():
    """Makes the charts and yields (file, title)."""
    figures = {f["name"]: f for f in (load("targets") or {"figures": []})["figures"]}

    def pair(name):
        parts = figures[name]["parts"]
        base = next(p for p in parts if "bare" in p["label"])
        return [("Logweir", parts[0]["value"]), ("base", base["value"])]

    wanted = [
        ("append", "Append of 1 KiB: time, beside a bare copy", "ns", [("append_1_kib", "1 KiB")]),
        ("append-large", "Append: rate, beside a bare pwrite", "GB/s",
         [(f"append_{k}_kib", f"{k} KiB") for k in (64, 256, 1024)]),
        ("grpc-rate", "gRPC streams: rate, beside bare tonic", "MB/s",
         [("grpc_produce_rate", "produce, 64 KiB batches"), ("grpc_fetch_rate", "fetch, 1 MiB responses")]),
        ("grpc-cpu", "gRPC streams: server's processor time, beside bare tonic", "s per GB",
         [("grpc_produce_cpu", "produce, 64 KiB batches"), ("grpc_fetch_cpu", "fetch, 1 MiB responses")]),
    ]
    for name, title, unit, lines in wanted:
        bars = [(label, pair(key)) for key, label in lines if key in figures]
        if bars:
            chart(RESULTS / f"{name}.svg", title, bars, unit)
            yield f"{name}.svg", title
    data = load("start")
    if data:
        labels = {"memory": "in memory, first ack", "memory_ports": "in memory, ports, first ack",
                  "disk": "on disk, first ack", "serve": "serve, ready", "serve_again": "serve again, ready"}
        bars = [(label, [("Logweir", data[key]["p50_us"] / 1e3)]) for key, label in labels.items() if key in data]
        chart(RESULTS / "start.svg", "Start: median", bars, "ms")
        yield "start.svg", "Start: median"


def main():
    if len(sys.argv) > 1:
        described = machine(sys.argv[1])
        (RESULTS / "machine.json").write_text(json.dumps(described, indent=2) + "\n")
    on = load("machine") or sys.exit("say which folder was measured")
    text = (f"Measured {on['date']} at commit {on['commit']} by `benches/run.sh`: {on['cpu']}, {on['cores']} cores"
            f"{' of a virtual machine' if on['virtual'] else ''}, {on['memory_gib']} GiB, {on['kernel']}, "
            f"{on['file_system']}, Rust {on['rust']}, release profile.\n\n## Promised figures\n\n")
    body = [(w, v, g, {True: "yes", False: "**no**", None: ""}[r], parts, f"`{c}`") for w, v, g, r, parts, c in rows()]
    text += table(("figure", "measured", "promised", "reached", "beside it", "command"), body)
    text += "\n## Loads\n\nWith a broker on the same machine, which shares its cores with the load.\n\n"
    text += table(("command", "records/s", "MB/s", "p50", "p99", "p99.9", "max", "broker s per GB", "broker peak MiB"), load_rows())
    text += "\n## Charts\n\n" + "\n".join(f"![{title}](results/{name})" for name, title in charts()) + "\n"
    path = HERE / "RESULTS.md"
    page = path.read_text()
    head, rest = page.split(BEGIN)
    _, tail = rest.split(END)
    path.write_text(head + BEGIN + "\n" + text + "\n" + END + tail)


if __name__ == "__main__":
    main()
