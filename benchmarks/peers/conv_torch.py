#!/usr/bin/env python3
"""Times the convolutions of benchmarks/native/conv.cc in PyTorch (oneDNN), and its dense weight gradient of the layers
of conv_sign_gradient.cc, and prints JSON; `npm run bench` merges it.

    python3 benchmarks/peers/conv_torch.py [--native build/Release/auxgrad_bench] [--only conv,conv-sign-gradient]
        [--threads 1] [--rounds 2] [--quick]

Layers are read from those files, so that names and shapes cannot drift apart. Both memory formats are tried and the
faster one counts. With --native both programs take turns, a layer at a time, and the ratio is of the best of all rounds.
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
FILES = {'conv': 'conv.cc', 'conv-sign-gradient': 'conv_sign_gradient.cc'}


def layers(group):
    """Name, shape (batch, size, channels, outputs, kernel, stride, depthwise) and whether --quick has it."""
    source = os.path.join(os.path.dirname(os.path.abspath(__file__)), '../native', FILES[group])
    for name, row in re.findall(r'\{"([^"]+)",((?: \d+,?){6}[^}]*)\}', open(source).read()):
        fields = [f.strip() for f in row.split(',')]
        flags = [f == 'true' for f in fields[6:]] + [False, False]
        depthwise, quick = (False, flags[0]) if group == 'conv-sign-gradient' else flags[:2]
        yield name, (*map(int, fields[:6]), depthwise), quick


def cases(group, layer):
    """Direction and names of the cases of a layer; signs and codes have the same dense gradient."""
    if group == 'conv':
        return {d: [f'{layer} {d}'] for d in DIRECTIONS}
    return {'weight grad': [f'{kind} {layer}' for kind in ('signs', 'code2')]}


def best_of(f, seconds):
    f()
    best, total, runs = float('inf'), 0.0, 0
    while total < seconds or runs < 3:
        start = time.perf_counter()
        f()
        taken = time.perf_counter() - start
        best, total, runs = min(best, taken), total + taken, runs + 1
    return best


def time_layer(torch, shape, direction, seconds):
    batch, size, channels, outputs, kernel, stride, depthwise = shape
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


def time_native(program, group, name, threads):
    """GF/s of all cases of one layer, by full case name."""
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, 'native.json')
        subprocess.run([program, '--only', group, '--match', name, '--threads', str(threads), '--json', file],
                       stdout=subprocess.DEVNULL, check=True)
        return {r['name']: r['gflops'] for r in json.load(open(file))['results']}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--native', help='our benchmark program, to take turns with')
    parser.add_argument('--only', default='conv', help='groups, separated by commas: ' + ', '.join(FILES))
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
    ours, theirs = {}, {}
    # Passes over all cases, so that a slow minute of the machine does not stay.
    for _ in range(o.rounds):
        for group, (layer, shape, quick) in ((g, l) for g in o.only.split(',') for l in layers(g)):
            wanted = {d: [n for n in names if o.match in n] for d, names in cases(group, layer).items()}
            if not any(wanted.values()) or (o.quick and not quick):
                continue
            if o.native:
                for name, gflops in time_native(o.native, group, layer, o.threads).items():
                    ours[group, name] = max(ours.get((group, name), 0), gflops)
            for direction in (d for d in wanted if wanted[d]):
                gflops = time_layer(torch, shape, direction, o.seconds)
                for name in wanted[direction]:
                    best = theirs[group, name] = max(theirs.get((group, name), 0), gflops)
                    beside = f'  auxgrad {ours[group, name]:.1f}' if (group, name) in ours else ''
                    print(f'{name:<34} {o.threads}t  pytorch {best:.1f}{beside}', file=sys.stderr, flush=True)
    results = []
    for (group, name), gflops in theirs.items():
        row = {'group': group, 'name': name, 'threads': o.threads, 'peers': {'pytorch': gflops}}
        if (group, name) in ours:
            row.update(gflops=ours[group, name], ratioToBestPeer=ours[group, name] / gflops)
        results.append(row)
    json.dump({'results': results, 'peers': {'pytorch': f'PyTorch {torch.__version__}'}}, sys.stdout, indent=1)
    print()


if __name__ == '__main__':
    main()
