"""auxgrad's matrix kernels on a GPU beside cuBLAS and cuDNN (PyTorch), in float32 and with TF32 allowed.

Usage: peers.py PROGRAM [PART OF A NAME]; the program is build/Release/auxgrad_cuda_bench.
"""
import json
import statistics
import subprocess
import sys

import torch


def seconds(run):
    for _ in range(3):
        run()
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(13)]
    for i, mark in enumerate(marks):
        mark.record()
        if i < 12:
            run()
    torch.cuda.synchronize()
    return 1e-3 * statistics.median(marks[i].elapsed_time(marks[i + 1]) for i in range(2, 12))


def peer(name):
    kind, *rest = name.split()
    if kind == 'matmul':
        m, n, k = map(int, rest[:3])
        a = torch.randn((k, m) if rest[3][0] == 't' else (m, k), device='cuda')
        b = torch.randn((n, k) if rest[3][1] == 't' else (k, n), device='cuda')
        a, b = (a.t() if rest[3][0] == 't' else a), (b.t() if rest[3][1] == 't' else b)
        return lambda: a @ b
    if kind == 'sign_grad':
        outputs, inputs, tokens = map(int, rest)
        delta = torch.randn((tokens, outputs), device='cuda')
        x = torch.randn((tokens, inputs), device='cuda')
        return lambda: delta.t() @ x
    if kind == 'conv':
        n, h, c, o, kernel, stride, pad = map(int, rest[:7])
        last = torch.channels_last
        x = torch.randn((n, c, h, h), device='cuda').to(memory_format=last)
        w = torch.randn((o, c, kernel, kernel), device='cuda').to(memory_format=last)
        y = torch.nn.functional.conv2d(x, w, stride=stride, padding=pad)
        if rest[7] in ('forward', 'fused'):
            return lambda: torch.nn.functional.conv2d(x, w, stride=stride, padding=pad)
        wanted = [rest[7] == 'input_grad', rest[7] != 'input_grad', False]
        return lambda: torch.ops.aten.convolution_backward(
            y, x, w, None, [stride] * 2, [pad] * 2, [1, 1], False, [0, 0], 1, wanted)
    b, h, t, d = map(int, rest[:4])
    q, k, v = (torch.randn((b, h, t, d), device='cuda', requires_grad=True) for _ in range(3))
    causal = rest[4] == 'causal'
    attend = torch.nn.functional.scaled_dot_product_attention
    if rest[5] == 'forward':
        return lambda: attend(q.detach(), k.detach(), v.detach(), is_causal=causal)
    y = attend(q, k, v, is_causal=causal)
    dy = torch.randn_like(y)
    return lambda: torch.autograd.grad(y, (q, k, v), dy, retain_graph=True)


def main():
    torch.backends.cudnn.benchmark = True
    ours = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, text=True, check=True).stdout
    print(f'{"":46} {"us":>9} {"TFLOP/s":>8} {"float32":>9} {"ratio":>6} {"TF32":>9} {"ratio":>6}')
    for line in ours.splitlines():
        row = json.loads(line)
        if 'us' not in row:
            print(row)
            continue
        times = []
        for allowed in (False, True):
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
            times.append(1e6 * seconds(peer(row['name'])))
        ratios = [t / row['us'] for t in times]
        print(f'{row["name"]:46} {row["us"]:9.1f} {row["tflops"]:8.1f} {times[0]:9.1f} {ratios[0]:6.2f} '
              f'{times[1]:9.1f} {ratios[1]:6.2f}', flush=True)
        torch.cuda.empty_cache()


main()
