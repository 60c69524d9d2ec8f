"""Training steps on a GPU, ours beside PyTorch's: python3 cuda.py FOLDER PROGRAM [MODEL...]

FOLDER is what plans.js wrote, PROGRAM auxgrad_run. PyTorch's backpropagation is timed eager and as a CUDA graph, in
float32 and with TF32 products; both sides bring the batch from pinned memory at each step. One JSON object a network
and side, then a table of milliseconds and megabytes.
"""
import gc
import json
import os
import statistics
import subprocess
import sys

import torch

here = os.path.dirname(os.path.abspath(__file__))
source = open(os.path.join(here, "train.py")).read()
exec(compile(source[: source.rindex("\nmain()")], "train.py", "exec"))


def batch_of(c):
    o, n = c["options"], c["batch"]
    if c["model"] == "gpt":
        tokens = torch.randint(o["vocabulary"], (n, o["length"] + 1))
        return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    side = o.get("image", 32 if c["model"] == "resnet18" else 28)
    channels = o.get("channels", 3 if c["model"] == "resnet18" else 1)
    return torch.randn(n, channels, side, side), torch.randint(o.get("classes", 10), (n,))


def times(step, n=30):
    for _ in range(5):
        step()
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(n + 1)]
    marks[0].record()
    for m in marks[1:]:
        step()
        m.record()
    torch.cuda.synchronize()
    return statistics.median(a.elapsed_time(b) for a, b in zip(marks, marks[1:]))


def run(c, tf32):
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = True
    gc.collect()
    before = torch.cuda.memory_allocated()  # left by the networks before
    model = make_model(c["model"], c["options"]).train()
    if c["model"] in ("cnn", "resnet18"):
        model = model.to(memory_format=torch.channels_last)
    x, y = batch_of(c)
    if x.dim() == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    o = c["optimizer"]
    if o["name"] == "sgd":
        optimizer = torch.optim.SGD(model.parameters(), lr=o["lr"], momentum=o["momentum"])
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=o["lr"], weight_decay=o["weightDecay"], capturable=True)

    host = [torch.empty_like(value, device="cpu", pin_memory=True).copy_(value) for value in (x, y)]

    def upload():
        for value, source in zip((x, y), host):
            value.copy_(source, non_blocking=True)

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss_of(model, x, y).backward()
        optimizer.step()

    for _ in range(5):  # cuDNN's trials of algorithms, which take memory of their own
        step()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    eager = times(lambda: (upload(), step()))
    peak = torch.cuda.max_memory_allocated() - before
    graphed = None
    try:
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            for _ in range(3):
                step()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        graphed = times(lambda: (upload(), graph.replay()))
    except Exception as error:  # a network that cannot be captured
        graphed = str(error)[:80]
    return {"name": c["name"], "tf32": tf32, "eagerMs": eager, "graphMs": graphed, "peakBytes": peak}


def ours(program, plan):
    command = [program, plan, "--device", "cuda", "--steps", "40", "--json"]
    text = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    report = json.loads(text.strip().split("\n")[-1])
    return {"ms": report["medianMs"], "bytes": report["measuredBytes"]}


def main():
    torch.set_default_device("cuda")
    folder, program, *models = sys.argv[1:]
    rows = {}
    for c in json.load(open(os.path.join(folder, "cases.json"))):
        if models and c["model"] not in models:
            continue
        row = rows.setdefault((c["model"], c["batch"]), {})
        rule = c["name"].split("-")[1]
        row[rule] = ours(program, os.path.join(folder, c["name"] + ".plan"))
        print(json.dumps({"name": c["name"], **row[rule]}), flush=True)
        if rule == "bp":
            for tf32 in (False, True):
                row["tf32" if tf32 else "torch"] = run(c, tf32)
                print(json.dumps(row["tf32" if tf32 else "torch"]), flush=True)
    rules = ("bp", "asa", "asa8", "ara")
    print("| network, batch | " + " | ".join(rules) + " | PyTorch, graph | eager | TF32, graph | PyTorch, peak |")
    print("|---" * (len(rules) + 5) + "|")
    for (model, batch), row in rows.items():
        cells = [f"{row[r]['ms']:.2f} ({row[r]['bytes'] / 1e6:.0f} MB)" if r in row else "" for r in rules]
        if "torch" in row:
            t = row["torch"]
            shown = lambda ms: ms if isinstance(ms, str) else f"{ms:.2f}"
            cells += [shown(t["graphMs"]), shown(t["eagerMs"]), shown(row["tf32"]["graphMs"])]
            cells.append(f"{t['peakBytes'] / 1e6:.0f} MB")
        print(f"| {model}, {batch} | " + " | ".join(cells) + " |")


main()
