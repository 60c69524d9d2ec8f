#!/usr/bin/env python3
"""Times the convolutions of benchmarks/native/conv.cc in PyTorch (oneDNN) and prints JSON; `npm run bench` merges it.

    python3 benchmarks/peers/conv_torch.py [--native build/Release/auxgrad_bench] [--threads 1] [--rounds 2] [--quick]

Layers are read from conv.cc, so that names and shapes cannot drift apart. Both memory formats are tried and the faster
one counts. With --native both programs take turns, a layer at a time, and the ratio is of the best of all rounds.
"""
import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time

DIRECTIONS = ['forward', 'input grad', 'weight grad']


def layers():
    source = os.path.join(os.path.dirname(os.path.abspath(__file__)), '../native/conv.cc')
    for row in re.findall(r'^    \{"(.+?)", ([^}]*)\},$', open(source).read(), re.M):
        fields = [f.strip() for f in row[1].split(',')]
        batch, size, channels, outputs, kernel, stride = map(int, fields[:6])
        yield row[0], batch, size, channels, outputs, kernel, stride, fields[6:7] == ['true'], fields[7:8] == ['true']


def best_of(f, seconds):
    f()
    best, total, runs = float('inf'), 0.0, 0
    while total < seconds or runs < 3:
        start = time.perf_counter()
        f()
        taken = time.perf_counter() - start
        best, total, runs = min(best, taken), total + taken, runs + 1
    return best


def time_layer(torch, layer, direction, seconds):
    _, batch, size, channels, outputs, kernel, stride, depthwise, _ = layer
    groups, pad = (channels if depthwise else 1), kernel // 2
    best = float('inf')
    for layout in (torch.channels_last, torch.contiguous_format):
        x = torch.randn(batch, channels, size, size).contiguous(memory_format=layout)
        w = torch.randn(outputs, channels // groups, kernel, kernel).contiguous(memory_format=layout)
        with torch.no_grad():
            y = torch.conv2d(x, w, None, stride, pad, 1, groups)
            dy = torch.randn_like(y)
            if direction == 'forward':
                run = lambda: torch.conv2d(x, w, None, stride, pad, 1, groups)
            else:
                mask = [direction == 'input grad', direction == 'weight grad', False]
                run = lambda: torch.ops.aten.convolution_backward(
                    dy, x, w, [0], [stride] * 2, [pad] * 2, [1, 1], False, [0, 0], groups, mask)
            best = min(best, best_of(run, seconds))
    return 2.0 * y.numel() * w.numel() / outputs / best / 1e9


def time_native(program, name, threads):
    """GF/s of all directions of one layer, by full case name."""
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, 'native.json')
        subprocess.run([program, '--only', 'conv', '--match', name, '--threads', str(threads), '--json', file],
                       stdout=subprocess.DEVNULL, check=True)
        return {r['name']: r['gflops'] for r in json.load(open(file))['results']}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--native', help='our benchmark program, to take turns with')
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--rounds', type=int, default=2)
    parser.add_argument('--seconds', type=float, default=0.05, help='of each measurement')
    parser.add_argument('--match', default='', help='part of the case names')
    parser.add_argument('--quick', action='store_true', help='the layers of --quick alone')
    o = parser.parse_args()
    # Small convolutions go to a BLAS library, which has threads of its own.
    os.environ['OPENBLAS_NUM_THREADS'] = os.environ['OMP_NUM_THREADS'] = str(o.threads)
    import torch
    torch.set_num_threads(o.threads)
    results = []
    for layer in layers():
        directions = [d for d in DIRECTIONS if o.match in f'{layer[0]} {d}']
        if not directions or (o.quick and not layer[-1]):
            continue
        ours, theirs = {}, {}
        for _ in range(o.rounds):
            if o.native:
                for name, gflops in time_native(o.native, layer[0], o.threads).items():
                    ours[name] = max(ours.get(name, 0), gflops)
            for direction in directions:
                name = f'{layer[0]} {direction}'
                theirs[name] = max(theirs.get(name, 0), time_layer(torch, layer, direction, o.seconds))
        for name, gflops in theirs.items():
            row = {'group': 'conv', 'name': name, 'threads': o.threads, 'peers': {'pytorch': gflops}}
            if name in ours:
                row.update(gflops=ours[name], ratioToBestPeer=ours[name] / gflops)
            results.append(row)
            print(json.dumps(row), file=sys.stderr, flush=True)
    json.dump({'results': results, 'peers': {'pytorch': f'PyTorch {torch.__version__}'}}, sys.stdout, indent=1)
    print()


if __name__ == '__main__':
    main()
