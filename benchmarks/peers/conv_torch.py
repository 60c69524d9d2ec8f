#!/usr/bin/env python3
"""Times the convolutions of benchmarks/native/conv.cc in PyTorch (oneDNN), and its dense weight gradient of the layers
of conv_sign_gradient.cc. Takes one command a line, answers each with one line of JSON:

    {"do": "time", "group": "conv", "name": "r50 56 3x3 64 forward", "seconds": 0.02}  ->  {"seconds": 0.0123}

Layers are read from those files, so that names and shapes cannot drift apart. Both memory formats are tried at first and
the faster one counts; one that is far behind is not tried again.
"""
import json
import os
import re
import sys
import time

import torch

DIRECTIONS = ['forward', 'input grad', 'weight grad']
FILES = {'conv': 'conv.cc', 'conv-sign-gradient': 'conv_sign_gradient.cc'}


def cases():
    """Direction and shape (batch, size, channels, outputs, kernel, stride, depthwise) of each case, by group and name."""
    found = {}
    for group, file in FILES.items():
        source = os.path.join(os.path.dirname(os.path.abspath(__file__)), '../native', file)
        for layer, row in re.findall(r'\{"([^"]+)",((?: \d+,?){6}[^}]*)\}', open(source).read()):
            fields = [f.strip() for f in row.split(',')]
            shape = (*map(int, fields[:6]), group == 'conv' and fields[6:7] == ['true'])
            if group == 'conv':
                found.update({(group, f'{layer} {d}'): (d, shape) for d in DIRECTIONS})
            else:  # signs and codes have the same dense gradient
                found.update({(group, f'{kind} {layer}'): ('weight grad', shape) for kind in ('signs', 'code2')})
    return found


def best_of(f, seconds):
    f()
    best, total, runs = float('inf'), 0.0, 0
    while total < seconds or runs < 2:
        start = time.perf_counter()
        f()
        taken = time.perf_counter() - start
        best, total, runs = min(best, taken), total + taken, runs + 1
    return best


def time_layer(direction, shape, layout, seconds):
    batch, size, channels, outputs, kernel, stride, depthwise = shape
    groups, pad = (channels if depthwise else 1), kernel // 2
    x = torch.full((batch, channels, size, size), 0.5).contiguous(memory_format=layout)
    w = torch.full((outputs, channels // groups, kernel, kernel), 0.25).contiguous(memory_format=layout)
    if direction == 'forward':
        return best_of(lambda: torch.conv2d(x, w, None, stride, pad, 1, groups), seconds)
    dy = torch.ones_like(torch.conv2d(x, w, None, stride, pad, 1, groups))
    mask = [direction == 'input grad', direction == 'weight grad', False]
    return best_of(lambda: torch.ops.aten.convolution_backward(
        dy, x, w, [0], [stride] * 2, [pad] * 2, [1, 1], False, [0, 0], groups, mask), seconds)


def main():
    torch.set_num_threads(int(sys.argv[1]))
    torch.set_grad_enabled(False)
    known, layouts = cases(), {}
    print(json.dumps({'torch': torch.__version__}), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        key = command['group'], command['name']
        tried = layouts.get(key, [torch.channels_last, torch.contiguous_format])
        taken = {layout: time_layer(*known[key], layout, command['seconds'] / len(tried)) for layout in tried}
        best = min(taken.values())
        layouts[key] = [layout for layout in tried if taken[layout] < 1.25 * best]
        print(json.dumps({'seconds': best}), flush=True)


if __name__ == '__main__':
    main()
