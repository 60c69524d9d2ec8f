"""PyTorch's side of the comparison. Reads one JSON command a line, answers with one JSON line.

Models, and the rules for weight gradients, are written here from their mathematics alone:
ASA   h = x + eps s, s = sgn(x);  y = W h + b;  dW = eps lambda delta^T s;  dx = W^T delta;  db = sum delta
ARA   y = W x + b;  dW = delta^T a, a the input of the first block of the group;  the rest as usual
"""
import json
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.grad import conv2d_input, conv2d_weight


def signs(x, alphabet):
    """+1 where x > 0; elsewhere (0, -0 and NaN too) -1, or 0."""
    return torch.where(x > 0, torch.ones_like(x), torch.full_like(x, 0.0 if alphabet == "01" else -1.0))


class SignLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w, b, rule):
        s = signs(x, rule["alphabet"])
        ctx.save_for_backward(s, w)
        ctx.scale = rule["epsilon"] * rule["lambda"]
        return F.linear(x + rule["epsilon"] * s, w, b)

    @staticmethod
    def backward(ctx, delta):
        s, w = ctx.saved_tensors
        rows = delta.flatten(0, -2)
        return delta @ w, ctx.scale * (rows.t() @ s.flatten(0, -2)), rows.sum(0), None


class SignConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w, b, stride, padding, rule):
        s = signs(x, rule["alphabet"])
        ctx.save_for_backward(s, w)
        ctx.scale, ctx.stride, ctx.padding = rule["epsilon"] * rule["lambda"], stride, padding
        return F.conv2d(x + rule["epsilon"] * s, w, b, stride, padding)

    @staticmethod
    def backward(ctx, delta):
        s, w = ctx.saved_tensors
        dx = conv2d_input(s.shape, w, delta, ctx.stride, ctx.padding)
        dw = ctx.scale * conv2d_weight(s, w.shape, delta, ctx.stride, ctx.padding)
        return dx, dw, delta.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None, None, None, None


class ResidualConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, a, w, b, stride, padding):
        ctx.save_for_backward(a, w)
        ctx.shape, ctx.stride, ctx.padding = x.shape, stride, padding
        return F.conv2d(x, w, b, stride, padding)

    @staticmethod
    def backward(ctx, delta):
        a, w = ctx.saved_tensors
        dx = conv2d_input(ctx.shape, w, delta, ctx.stride, ctx.padding)
        dw = conv2d_weight(a, w.shape, delta, ctx.stride, ctx.padding)
        return dx, None, dw, delta.sum((0, 2, 3)) if ctx.needs_input_grad[3] else None, None, None


class Linear(nn.Linear):
    rule = None

    def forward(self, x):
        return SignLinear.apply(x, self.weight, self.bias, self.rule) if self.rule else super().forward(x)


class Conv(nn.Conv2d):
    rule = None

    def __init__(self, inputs, outputs, kernel, stride=1, padding=0, bias=False):
        super().__init__(inputs, outputs, kernel, stride, padding, bias=bias)

    def forward(self, x, auxiliary=None):
        if auxiliary is not None:
            return ResidualConv.apply(x, auxiliary, self.weight, self.bias, self.stride, self.padding)
        if self.rule:
            return SignConv.apply(x, self.weight, self.bias, self.stride, self.padding, self.rule)
        return super().forward(x)


class Projection(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv = Conv(inputs, outputs, 1, stride)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x, auxiliary):
        return self.norm(self.conv(x, auxiliary))


class BasicBlock(nn.Module):
    def __init__(self, inputs, planes, stride=1):
        super().__init__()
        self.conv1 = Conv(inputs, planes, 3, stride, 1)
        self.norm1 = nn.BatchNorm2d(planes)
        self.conv2 = Conv(planes, planes, 3, 1, 1)
        self.norm2 = nn.BatchNorm2d(planes)
        self.shortcut = Projection(inputs, planes, stride) if stride != 1 or inputs != planes else None

    def forward(self, x, auxiliary=None):
        y = F.relu(self.norm1(self.conv1(x, auxiliary)))
        z = self.norm2(self.conv2(y))
        return F.relu(z + (self.shortcut(x, auxiliary) if self.shortcut else x))


class Stage(nn.Sequential):
    stride = None

    def forward(self, x):
        group = None
        for i, block in enumerate(self):
            if self.stride is None:
                x = block(x)
                continue
            first = i % self.stride == 0
            if first:
                group = x.detach()
            x = block(x, None if first else group)
        return x


class MLP(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        self.layers = nn.ModuleList(Linear(i, o) for i, o in zip(sizes, sizes[1:]))

    def forward(self, x):
        x = x.permute(0, 2, 3, 1).flatten(1)
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


class Plain(nn.Module):
    """Two convolutions with bias, max pools and a linear layer on the flattened, channels-last image."""

    def __init__(self):
        super().__init__()
        self.conv1 = Conv(1, 16, 3, 1, 1, bias=True)
        self.conv2 = Conv(16, 32, 5, 1, 2, bias=True)
        self.fc = Linear(7 * 7 * 32, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc(x.permute(0, 2, 3, 1).flatten(1))


class CNN(nn.Module):
    def __init__(self, width=32):
        super().__init__()
        w = width
        self.stem = Conv(1, w, 3, 1, 1)
        self.norm = nn.BatchNorm2d(w)
        self.stage1 = Stage(BasicBlock(w, w), BasicBlock(w, w), BasicBlock(w, 2 * w, 2))
        self.stage2 = Stage(BasicBlock(2 * w, 2 * w), BasicBlock(2 * w, 2 * w))
        self.fc = Linear(2 * w, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.norm(self.stem(x))), 2)
        return self.fc(self.stage2(self.stage1(x)).mean((2, 3)))


class ResNet18(nn.Module):
    def __init__(self, layout, width):
        super().__init__()
        self.stem = Conv(3, width, 3, 1, 1)
        self.norm = nn.BatchNorm2d(width)
        inputs = width
        for s, count in enumerate([2, 2, 2, 2] if layout == "standard" else [3, 2, 2, 1]):
            blocks = []
            for i in range(count):
                planes, stride = width * 2**s, 1
                if layout == "standard" and s > 0 and i == 0:
                    stride = 2
                if layout == "ara" and s < 3 and i == count - 1:
                    planes, stride = 2 * planes, 2
                blocks.append(BasicBlock(inputs, planes, stride))
                inputs = planes
            setattr(self, f"stage{s + 1}", Stage(*blocks))
        self.fc = Linear(inputs, 10)

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)))
        for stage in (self.stage1, self.stage2, self.stage3, self.stage4):
            x = stage(x)
        return self.fc(x.mean((2, 3)))


class Attention(nn.Module):
    def __init__(self, features, heads, causal):
        super().__init__()
        self.q = Linear(features, features)
        self.k = Linear(features, features)
        self.v = Linear(features, features)
        self.out = Linear(features, features)
        self.heads, self.causal = heads, causal

    def forward(self, x):
        n, t, features = x.shape
        q, k, v = (f(x).view(n, t, self.heads, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
        scores = (q * (features // self.heads) ** -0.5) @ k.transpose(-2, -1)
        if self.causal:
            later = torch.ones(t, t, dtype=torch.bool, device=x.device).triu(1)
            scores = scores.masked_fill(later, float("-inf"))
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(n, t, features))


class Block(nn.Module):
    def __init__(self, features, heads, eps=1e-5, causal=False):
        super().__init__()
        self.attention = Attention(features, heads, causal)
        self.norm1 = nn.LayerNorm(features, eps)
        self.fc1 = Linear(features, 4 * features)
        self.fc2 = Linear(4 * features, features)
        self.norm2 = nn.LayerNorm(features, eps)

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class ViT(nn.Module):
    def __init__(self, image, channels, patch, layers, features, heads, classes):
        super().__init__()
        self.patches = Conv(channels, features, patch, patch, bias=True)
        self.token = nn.Parameter(torch.zeros(features))
        self.positions = nn.Parameter(torch.zeros(1 + (image // patch) ** 2, features))
        self.blocks = nn.ModuleList(Block(features, heads, 1e-6) for _ in range(layers))
        self.norm = nn.LayerNorm(features, 1e-6)
        self.head = Linear(features, classes)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.token.expand(x.shape[0], 1, -1), x), 1) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x[:, 0]))


class GPT(nn.Module):
    def __init__(self, vocabulary, length, layers, features, heads):
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, features)
        self.positions = nn.Embedding(length, features)
        self.blocks = nn.ModuleList(Block(features, heads, causal=True) for _ in range(layers))
        self.norm = nn.LayerNorm(features)
        self.head = nn.Linear(features, vocabulary, bias=False)

    def forward(self, tokens):
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def make_model(kind, options):
    if kind == "mlp":
        return MLP(options["sizes"])
    if kind == "plain":
        return Plain()
    if kind == "cnn":
        return CNN(**options)
    if kind == "vit":
        return ViT(**options)
    if kind == "gpt":
        return GPT(**options)
    return ResNet18(**options)


def loss_of(model, x, y, smoothing=0.0):
    return F.cross_entropy(model(x).flatten(0, -2), y.flatten(), label_smoothing=smoothing)


def apply_rule(model, rule):
    if rule["name"] == "asa":
        blocks = getattr(model, "blocks", None)
        layers = [m for m in (blocks or model).modules() if isinstance(m, (Linear, Conv))]
        for layer in layers if blocks else layers[1:]:
            layer.rule = rule
    if rule["name"] == "ara":
        for m in model.modules():
            if isinstance(m, Stage):
                m.stride = rule["stride"]


NUMPY = {"f32": "<f4", "i32": "<i4"}


def read(stem):
    with open(stem + ".json") as f:
        header = json.load(f)
    data = np.memmap(stem + ".bin", dtype=np.uint8, mode="r")
    out = {}
    for t in header:
        count = int(np.prod(t["shape"], dtype=np.int64))
        out[t["name"]] = np.frombuffer(data, NUMPY[t["dtype"]], count, t["offset"]).reshape(t["shape"]).copy()
    return out


def write(stem, tensors):
    header, offset = [], 0
    with open(stem + ".bin", "wb") as f:
        for name, value in tensors.items():
            value = np.ascontiguousarray(value, "<f4")
            header.append({"name": name, "dtype": "f32", "shape": list(value.shape), "offset": offset})
            f.write(value.tobytes())
            offset += value.nbytes
    with open(stem + ".json", "w") as f:
        json.dump(header, f)


def their_name(name):
    return name.replace("runningMean", "running_mean").replace("runningVar", "running_var")


def own_name(name):
    return name.replace("running_mean", "runningMean").replace("running_var", "runningVar")


def load(model, tensors):
    own = {k: v for k, v in model.state_dict().items() if "num_batches" not in k}
    if sorted(own) != sorted(their_name(n) for n in tensors):
        raise ValueError(f"parameters differ: {sorted(own)} and {sorted(tensors)}")
    with torch.no_grad():
        for name, value in tensors.items():
            t = torch.from_numpy(value)
            own[their_name(name)].copy_(t.permute(0, 3, 1, 2) if t.dim() == 4 else t)


def channels_last(t):
    t = t.detach().double()
    return (t.permute(0, 2, 3, 1) if t.dim() == 4 else t).numpy()


def make_optimizer(parameters, o):
    if o["name"] == "sgd":
        return torch.optim.SGD(parameters, o["lr"], o["momentum"], weight_decay=o["weightDecay"], nesterov=o["nesterov"])
    kind = torch.optim.Adam if o["name"] == "adam" else torch.optim.AdamW
    return kind(parameters, o["lr"], betas=(0.9, 0.999), eps=1e-8, weight_decay=o["weightDecay"])


def prepare(c):
    dtype = torch.float64 if c.get("dtype") == "f64" else torch.float32
    model = make_model(c["model"], c["options"]).to(dtype)
    load(model, read(c["weights"]))
    apply_rule(model, c["rule"])
    model.train()
    batches = read(c["batches"])
    x = torch.from_numpy(batches["x"])
    x = x.to(dtype).permute(0, 1, 4, 2, 3).contiguous() if x.is_floating_point() else x.long()
    y = torch.from_numpy(batches["y"]).long()
    return model, x, y


def train(c):
    start = time.perf_counter()
    model, x, y = prepare(c)
    optimizer = make_optimizer(model.parameters(), c["optimizer"])
    losses, norms = [], []
    for i in range(c["steps"]):
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(model, x[i], y[i], c["smoothing"])
        loss.backward()
        if c["clip"]:
            norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), c["clip"])))
        if i == 0 and c.get("gradients"):
            write(c["gradients"], {n: channels_last(p.grad) for n, p in model.named_parameters()})
        optimizer.step()
        losses.append(float(loss))
    state = {own_name(n): channels_last(t) for n, t in model.state_dict().items() if "num_batches" not in n}
    write(c["out"], state)
    return {"losses": losses, "norms": norms, "seconds": time.perf_counter() - start}


def saved_bytes(model, x, y):
    """Bytes that autograd holds for backward: storages, each once; parameters and buffers apart."""
    own = {p.storage().data_ptr() for p in model.parameters()} | {b.storage().data_ptr() for b in model.buffers()}
    held = {}

    def pack(t):
        storage = t.storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = storage.nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        loss = loss_of(model, x, y)
    del loss
    return sum(held.values())


class Speed:
    def __init__(self, c):
        self.model, self.x, self.y = prepare(c)
        if c["format"] == "channels_last":
            self.model = self.model.to(memory_format=torch.channels_last)
            self.batches = [b.contiguous(memory_format=torch.channels_last) for b in self.x]
        else:
            self.batches = list(self.x)
        self.optimizer = make_optimizer(self.model.parameters(), c["optimizer"])

    def step(self, i):
        self.optimizer.zero_grad(set_to_none=True)
        loss_of(self.model, self.batches[i], self.y[i]).backward()
        self.optimizer.step()

    def seconds(self, steps):
        best = float("inf")
        for i in range(steps):
            start = time.perf_counter()
            self.step(i % len(self.batches))
            best = min(best, time.perf_counter() - start)
        return best

    def bytes(self):
        saved = saved_bytes(self.model, self.batches[0], self.y[0])
        self.step(0)
        weights = sum(t.numel() * t.element_size() for t in self.model.state_dict().values())
        gradients = sum(p.grad.numel() * p.grad.element_size() for p in self.model.parameters())
        state = sum(
            v.numel() * v.element_size()
            for s in self.optimizer.state.values()
            for v in s.values()
            if torch.is_tensor(v) and v.dim() > 0
        )
        return {"saved": saved, "weights": weights, "gradients": gradients, "optimizer": state}


def main():
    torch.set_num_threads(int(sys.argv[1]))
    print(json.dumps({"torch": torch.__version__, "threads": torch.get_num_threads()}), flush=True)
    speeds = {}
    for line in sys.stdin:
        c = json.loads(line)
        if c["do"] == "train":
            answer = train(c)
        elif c["do"] == "speed":
            speeds[c["id"]] = Speed(c)
            answer = {}
        elif c["do"] == "bytes":
            answer = speeds[c["id"]].bytes()
        elif c["do"] == "seconds":
            answer = {"seconds": speeds[c["id"]].seconds(c["steps"])}
        elif c["do"] == "drop":
            del speeds[c["id"]]
            answer = {}
        else:
            speeds.clear()
            answer = {}
        print(json.dumps(answer), flush=True)


main()
