/** Arrays of doubles and slow, plain functions on them: what kernels are compared with. Shares no code with src/. */
export interface Arr {
  shape: number[]
  data: Float64Array
}

export const sizeOf = (shape: readonly number[]): number => shape.reduce((n, d) => n * d, 1)

/** Calls f for every index of a shape, in row-major order. */
export function eachIndex(shape: readonly number[], f: (index: number[], at: number) => void): void {
  const n = sizeOf(shape)
  const next = shape.map(() => 0)
  for (let at = 0; at < n; at++) {
    f([...next], at)
    for (let axis = shape.length - 1; axis >= 0 && ++next[axis] === shape[axis]; axis--) next[axis] = 0
  }
}

export function make(shape: readonly number[], f: (index: number[]) => number): Arr {
  const data = new Float64Array(sizeOf(shape))
  eachIndex(shape, (index, at) => (data[at] = f(index)))
  return { shape: [...shape], data }
}

/** Where the element at an index lies; broadcast axes (missing in front, or of size 1) repeat. */
function placeOf(a: Arr, index: readonly number[]): number {
  const lead = index.length - a.shape.length
  let at = 0
  for (let axis = 0; axis < a.shape.length; axis++)
    at = at * a.shape[axis] + (a.shape[axis] === 1 ? 0 : index[axis + lead])
  return at
}

/** The element at an index, with broadcasting. */
export const get = (a: Arr, index: readonly number[]): number => a.data[placeOf(a, index)]

/** Of two numbers, by the names of the operations. */
export const comparisons = {
  eq: (a: number, b: number) => a === b,
  ne: (a: number, b: number) => a !== b,
  lt: (a: number, b: number) => a < b,
  le: (a: number, b: number) => a <= b,
  gt: (a: number, b: number) => a > b,
  ge: (a: number, b: number) => a >= b,
}

export const map = (a: Arr, f: (v: number) => number): Arr => ({ shape: a.shape, data: a.data.map(f) })

export function broadcast(...shapes: number[][]): number[] {
  const rank = Math.max(...shapes.map((s) => s.length))
  return Array.from({ length: rank }, (_, i) => {
    const sizes = shapes.map((s) => s[s.length - rank + i] ?? 1)
    return sizes.find((d) => d !== 1) ?? 1
  })
}

export const zip = (a: Arr, b: Arr, f: (x: number, y: number) => number): Arr =>
  make(broadcast(a.shape, b.shape), (i) => f(get(a, i), get(b, i)))

/** f of the list of elements that share the indices of the axes not reduced. */
export function reduce(
  a: Arr,
  axes: readonly number[] | undefined,
  f: (values: number[]) => number,
  keep = false,
): Arr {
  const gone = (axes ?? a.shape.map((_, i) => i)).map((x) => (x < 0 ? x + a.shape.length : x))
  const kept = a.shape.map((_, i) => i).filter((i) => !gone.includes(i))
  const lists = new Map<string, number[]>()
  eachIndex(a.shape, (index, at) => {
    const key = kept.map((i) => index[i]).join()
    if (!lists.has(key)) lists.set(key, [])
    lists.get(key)!.push(a.data[at])
  })
  const result = make(
    kept.map((i) => a.shape[i]),
    (index) => f(lists.get(index.join()) ?? []),
  )
  return keep ? { ...result, shape: a.shape.map((d, i) => (gone.includes(i) ? 1 : d)) } : result
}

export const sum = (values: number[]): number => values.reduce((s, v) => s + v, 0)
export const mean = (values: number[]): number => sum(values) / values.length

/** Same elements, another shape. */
export const reshape = (a: Arr, shape: number[]): Arr => ({ shape, data: a.data })

export const permute = (a: Arr, order: number[]): Arr =>
  make(
    order.map((o) => a.shape[o]),
    (index) => {
      const from = new Array<number>(order.length)
      order.forEach((o, i) => (from[o] = index[i]))
      return get(a, from)
    },
  )

/** Along one axis: f maps a line of values to another (of any one length). */
export function lines(a: Arr, axis: number, f: (values: number[]) => number[]): Arr {
  const at = axis < 0 ? axis + a.shape.length : axis
  const size = a.shape[at]
  const step = sizeOf(a.shape.slice(at + 1))
  const placeIn = (line: number, length: number, i: number): number =>
    (Math.floor(line / step) * length + i) * step + (line % step)
  const mapped = Array.from({ length: sizeOf(a.shape.filter((_, i) => i !== at)) }, (_, line) =>
    f(Array.from({ length: size }, (_, i) => a.data[placeIn(line, size, i)])),
  )
  const length = (mapped[0] ?? f(new Array<number>(size).fill(0))).length
  const result = make(
    a.shape.map((d, i) => (i === at ? length : d)),
    () => 0,
  )
  mapped.forEach((values, line) => values.forEach((v, i) => (result.data[placeIn(line, length, i)] = v)))
  return result
}

/** Error function: the series for small arguments, the continued fraction of erfc beyond. */
export function erfc(x: number): number {
  if (x < 0) return 2 - erfc(-x)
  if (x < 2) {
    let term = x
    let total = x
    for (let n = 1; n < 200 && Math.abs(term) > 1e-18; n++) {
      term *= -(x * x) / n
      total += term / (2 * n + 1)
    }
    return 1 - (2 / Math.sqrt(Math.PI)) * total
  }
  let tail = 0
  for (let n = 400; n >= 1; n--) tail = n / 2 / (x + tail)
  return Math.exp(-x * x) / Math.sqrt(Math.PI) / (x + tail)
}
export const erf = (x: number): number => (Math.abs(x) < 2 ? 1 - erfc(x) : Math.sign(x) * (1 - erfc(Math.abs(x))))

export const softmax = (v: number[]): number[] => {
  const top = Math.max(...v)
  const e = v.map((x) => Math.exp(x - top))
  return e.map((x) => x / sum(e))
}
export const logSumExp = (v: number[]): number => {
  const top = Math.max(...v)
  return Number.isFinite(top) ? top + Math.log(sum(v.map((x) => Math.exp(x - top)))) : top
}

export const matmul = (a: Arr, b: Arr): Arr => {
  const [m, k, n] = [a.shape[a.shape.length - 2], a.shape[a.shape.length - 1], b.shape[b.shape.length - 1]]
  return make([...broadcast(a.shape.slice(0, -2), b.shape.slice(0, -2)), m, n], (index) => {
    const batch = index.slice(0, -2)
    const [i, j] = index.slice(-2)
    const [row, column] = [placeOf(a, [...batch, i, 0]), placeOf(b, [...batch, 0, j])]
    let total = 0
    for (let t = 0; t < k; t++) total += a.data[row + t] * b.data[column + t * n]
    return total
  })
}

/** Attention by its definition. */
export function attention(
  q: Arr,
  k: Arr,
  v: Arr,
  o: { causal?: boolean; scale?: number; mask?: (index: number[]) => number } = {},
): Arr {
  const scale = o.scale ?? 1 / Math.sqrt(q.shape[3])
  const scores = make([q.shape[0], q.shape[1], q.shape[2], k.shape[2]], (index) => {
    const [b, h, t, s] = index
    let dot = 0
    for (let d = 0; d < q.shape[3]; d++) dot += get(q, [b, h, t, d]) * get(k, [b, h, s, d])
    return (o.causal && s > t ? -Infinity : dot * scale) + (o.mask?.(index) ?? 0)
  })
  const weights = lines(scores, 3, (row) => (row.every((x) => x === -Infinity) ? row.map(() => 0) : softmax(row)))
  return matmul(weights, v)
}

/** Convolution by its definition, channels-last. */
export function conv2d(
  x: Arr,
  w: Arr,
  o: { stride?: number; padding?: number; dilation?: number; groups?: number } = {},
): Arr {
  const { stride = 1, padding = 0, dilation = 1, groups = 1 } = o
  const [n, h, width] = x.shape
  const [out, kh, kw, cin] = w.shape
  const positions = (size: number, kernel: number): number =>
    Math.floor((size + 2 * padding - dilation * (kernel - 1) - 1) / stride) + 1
  return make([n, positions(h, kh), positions(width, kw), out], ([b, p, q, f]) => {
    const group = Math.floor(f / (out / groups))
    let total = 0
    for (let i = 0; i < kh; i++)
      for (let j = 0; j < kw; j++)
        for (let c = 0; c < cin; c++) {
          const [y, z] = [p * stride - padding + i * dilation, q * stride - padding + j * dilation]
          if (y >= 0 && y < h && z >= 0 && z < width) total += get(x, [b, y, z, group * cin + c]) * get(w, [f, i, j, c])
        }
    return total
  })
}

/** Convolution along a sequence by its definition: x [N, L, C], w [O, K, C/groups]. */
export function conv1d(
  x: Arr,
  w: Arr,
  o: { stride?: number; padding?: number; dilation?: number; groups?: number } = {},
): Arr {
  const { stride = 1, padding = 0, dilation = 1, groups = 1 } = o
  const [n, length, channels] = x.shape
  const [out, taps, cin] = w.shape
  const positions = Math.floor((length + 2 * padding - dilation * (taps - 1) - 1) / stride) + 1
  return make([n, positions, out], ([b, p, f]) => {
    const first = Math.floor(f / (out / groups)) * (channels / groups)
    let total = 0
    for (let k = 0; k < taps; k++)
      for (let c = 0; c < cin; c++) {
        const at = p * stride - padding + k * dilation
        if (at >= 0 && at < length) total += get(x, [b, at, first + c]) * get(w, [f, k, c])
      }
    return total
  })
}

/** Convolution of volumes by its definition, channels-last: a number for depth, height and width each. */
export function conv3d(
  x: Arr,
  w: Arr,
  o: { stride?: number[]; padding?: number[]; dilation?: number[]; groups?: number } = {},
): Arr {
  const { stride = [1, 1, 1], padding = [0, 0, 0], dilation = [1, 1, 1], groups = 1 } = o
  const [out, kd, kh, kw, cin] = w.shape
  const sizes = [0, 1, 2].map(
    (i) => Math.floor((x.shape[i + 1] + 2 * padding[i] - dilation[i] * (w.shape[i + 1] - 1) - 1) / stride[i]) + 1,
  )
  return make([x.shape[0], ...sizes, out], ([b, ...rest]) => {
    const f = rest[3]
    let total = 0
    eachIndex([kd, kh, kw], (tap) => {
      const at = tap.map((k, i) => rest[i] * stride[i] - padding[i] + k * dilation[i])
      if (at.some((v, i) => v < 0 || v >= x.shape[i + 1])) return
      for (let c = 0; c < cin; c++)
        total += get(x, [b, ...at, Math.floor(f / (out / groups)) * cin + c]) * get(w, [f, ...tap, c])
    })
    return total
  })
}

/** f of the list of values under each window of a volume (padding left out). */
export function pool3d(
  x: Arr,
  kernel: number[],
  stride: number[],
  padding: number[],
  f: (values: number[]) => number,
): Arr {
  const sizes = [0, 1, 2].map((i) => Math.floor((x.shape[i + 1] + 2 * padding[i] - kernel[i]) / stride[i]) + 1)
  return make([x.shape[0], ...sizes, x.shape[4]], ([b, ...rest]) => {
    const values: number[] = []
    eachIndex(kernel, (tap) => {
      const at = tap.map((k, i) => rest[i] * stride[i] - padding[i] + k)
      if (at.every((v, i) => v >= 0 && v < x.shape[i + 1])) values.push(get(x, [b, ...at, rest[3]]))
    })
    return f(values)
  })
}

/** Each element of x spread over a window of y, weighted: w [I, KH, KW, O/groups]. */
export function convTranspose2d(
  x: Arr,
  w: Arr,
  o: { stride?: number; padding?: number; dilation?: number; groups?: number; outputPadding?: number } = {},
): Arr {
  const { stride = 1, padding = 0, dilation = 1, groups = 1, outputPadding = 0 } = o
  const [n, h, width, inputs] = x.shape
  const [, kh, kw, perGroup] = w.shape
  const size = (from: number, kernel: number): number =>
    (from - 1) * stride - 2 * padding + dilation * (kernel - 1) + outputPadding + 1
  const [p, q] = [size(h, kh), size(width, kw)]
  const y = make([n, p, q, perGroup * groups], () => 0)
  for (let b = 0; b < n; b++)
    for (let i = 0; i < h; i++)
      for (let j = 0; j < width; j++)
        for (let c = 0; c < inputs; c++)
          for (let u = 0; u < kh; u++)
            for (let v = 0; v < kw; v++)
              for (let k = 0; k < perGroup; k++) {
                const [at, to] = [i * stride - padding + u * dilation, j * stride - padding + v * dilation]
                if (at < 0 || at >= p || to < 0 || to >= q) continue
                const channel = Math.floor(c / (inputs / groups)) * perGroup + k
                y.data[((b * p + at) * q + to) * perGroup * groups + channel] +=
                  get(x, [b, i, j, c]) * get(w, [c, u, v, k])
              }
  return y
}

/** The same of volumes, w [I, KD, KH, KW, O]: a number for depth, height and width each. */
export function convTranspose3d(
  x: Arr,
  w: Arr,
  o: { stride?: number[]; padding?: number[]; dilation?: number[]; outputPadding?: number[]; groups?: number } = {},
): Arr {
  const [one, none] = [
    [1, 1, 1],
    [0, 0, 0],
  ]
  const { stride = one, padding = none, dilation = one, outputPadding = none, groups = 1 } = o
  const [inputs, , , , perGroup] = w.shape
  const sizes = [0, 1, 2].map(
    (i) =>
      (x.shape[1 + i] - 1) * stride[i] - 2 * padding[i] + dilation[i] * (w.shape[1 + i] - 1) + outputPadding[i] + 1,
  )
  const y = make([x.shape[0], ...sizes, perGroup * groups], () => 0)
  eachIndex(x.shape, ([b, ...rest], from) =>
    eachIndex(w.shape.slice(1, 4), (tap) => {
      const at = sizes.map((_, i) => rest[i] * stride[i] - padding[i] + tap[i] * dilation[i])
      if (at.some((v, i) => v < 0 || v >= sizes[i])) return
      const c = rest[3]
      const channel = Math.floor(c / (inputs / groups)) * perGroup
      const place = [b, ...at, channel].reduce((p, v, i) => p * y.shape[i] + v, 0)
      for (let k = 0; k < perGroup; k++) y.data[place + k] += x.data[from] * get(w, [c, ...tap, k])
    }),
  )
  return y
}

/** f of the list of values under each window of a sequence [N, L, C] (padding left out). */
export function pool1d(x: Arr, kernel: number, stride: number, padding: number, f: (values: number[]) => number): Arr {
  const [n, length, c] = x.shape
  return make([n, Math.floor((length + 2 * padding - kernel) / stride) + 1, c], ([b, p, ch]) => {
    const places = Array.from({ length: kernel }, (_, i) => p * stride - padding + i)
    return f(places.filter((at) => at >= 0 && at < length).map((at) => get(x, [b, at, ch])))
  })
}

/** f of the list of values under each window, channels-last (padding left out). */
export function pool2d(x: Arr, kernel: number, stride: number, padding: number, f: (values: number[]) => number): Arr {
  const [n, h, w, c] = x.shape
  const positions = (size: number): number => Math.floor((size + 2 * padding - kernel) / stride) + 1
  return make([n, positions(h), positions(w), c], ([b, p, q, ch]) => {
    const values: number[] = []
    for (let i = 0; i < kernel; i++)
      for (let j = 0; j < kernel; j++) {
        const [y, z] = [p * stride - padding + i, q * stride - padding + j]
        if (y >= 0 && y < h && z >= 0 && z < w) values.push(get(x, [b, y, z, ch]))
      }
    return f(values)
  })
}
