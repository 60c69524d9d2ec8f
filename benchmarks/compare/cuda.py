"""Seconds a step of PyTorch on the GPU, for the networks of plans.js: python3 cuda.py FOLDER [NAME...]

Backpropagation, eager and as a CUDA graph, float32 and with TF32 products. One JSON object a line.
"""
import json
import os
import statistics
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

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss_of(model, x, y).backward()
        optimizer.step()

    torch.cuda.reset_peak_memory_stats()
    eager = times(step)
    peak = torch.cuda.max_memory_allocated()
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
        graphed = times(graph.replay)
    except Exception as error:  # a network that cannot be captured
        graphed = str(error)[:80]
    return {"name": c["name"], "tf32": tf32, "eagerMs": eager, "graphMs": graphed, "peakBytes": peak}


torch.set_default_device("cuda")
folder, names = sys.argv[1], sys.argv[2:]
for c in json.load(open(os.path.join(folder, "cases.json"))):
    if c["rule"]["name"] != "bp" or names and c["name"] not in names:
        continue
    for tf32 in (False, True):
        print(json.dumps(run(c, tf32)), flush=True)
