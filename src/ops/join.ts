import { describe, expectIntegers, fail } from '../errors'
import { apply, defineOp, expectDType, expectTensor, type Op } from '../graph/op'
import { tidy } from '../tensor/tidy'
import { checkShape, resolveAxis, showShape, type Shape } from '../tensor/shape'
import { Tensor } from '../tensor/tensor'
import { constant } from './constant'
import { asStored, tensor } from './create'
import { alias } from './shape'

// Windows into a tensor (zero-copy) and their opposites: joins, paddings, repetitions.

type Window = { starts: readonly number[]; sizes: readonly number[]; steps: readonly number[] }

const sliceOp: Op<Window> = defineOp({
  name: 'slice',
  infer: () => fail('AUX_INVALID_ARGUMENT', 'a view has no outputs of its own'),
  view: (x, { starts, sizes, steps }) => ({
    shape: sizes,
    strides: x.strides.map((s, i) => s * steps[i]),
    offset: x.offset + starts.reduce((n, s, i) => n + (sizes.includes(0) ? 0 : s * x.strides[i]), 0),
  }),
  derive: (d) => [place(d.grad()!, d.spec(0).shape, d.attrs.starts, d.attrs.steps, 0)],
})

const window = (x: Tensor, starts: readonly number[], sizes: readonly number[], steps: readonly number[]): Tensor =>
  starts.every((s, i) => s === 0 && sizes[i] === x.shape[i] && steps[i] === 1)
    ? alias(x)
    : apply(sliceOp, [x], { starts, sizes, steps })[0]

type PlaceAttrs = { shape: Shape; starts: readonly number[]; steps: readonly number[]; value: number }
const placeOp: Op<PlaceAttrs> = defineOp({
  name: 'place',
  infer: ([x], { shape }) => [{ shape, dtype: x!.dtype }],
  kernel: (_, __, a) => ({ name: 'place', numbers: [a.value, ...a.starts, ...a.steps] }),
  derive: (d) => [window(d.grad()!, d.attrs.starts, d.spec(0).shape, d.attrs.steps)],
  strided: 'all',
  sum: (parts) => runs(parts).reduce((a, b) => a.add(b)),
})

/**
 * Windows that adjoin along an axis joined and placed as one: the gradient of a tensor that was split, or read entry by
 * entry, is put together instead of added up in its full size.
 */
function runs(placed: readonly Tensor[]): Tensor[] {
  const parts = placed.map((t) => ({ t, x: t.node!.inputs[0]!, ...(t.node!.attrs as PlaceAttrs) }))
  const { shape } = parts[0]
  const axis = shape.findIndex((n, i) => parts.some(({ x }) => x.shape[i] !== n))
  const simple = ({ x, steps, value }: (typeof parts)[number]): boolean =>
    value === 0 && steps.every((s) => s === 1) && shape.every((n, i) => i === axis || x.shape[i] === n)
  if (axis < 0 || !parts.every(simple)) return [...placed]
  const result: Tensor[] = []
  const sorted = [...parts].sort((a, b) => a.starts[axis] - b.starts[axis])
  for (let i = 0, next: number; i < sorted.length; i = next) {
    const end = (part: (typeof parts)[number]): number => part.starts[axis] + part.x.shape[axis]
    for (next = i + 1; next < sorted.length && sorted[next].starts[axis] === end(sorted[next - 1]);) next++
    const run = sorted.slice(i, next)
    const { t, starts, steps } = run[0]
    const whole = (): Tensor =>
      concat(
        run.map(({ x }) => x),
        axis,
      )
    if (run.length === 1) result.push(t)
    else if (starts[axis] === 0 && end(run[run.length - 1]) === shape[axis]) result.push(whole())
    else result.push(place(whole(), shape, starts, steps, 0))
  }
  return result
}

/** @internal x as a window of a tensor that is `value` elsewhere. */
export const place = (
  x: Tensor,
  shape: Shape,
  starts: readonly number[],
  steps: readonly number[],
  value: number,
): Tensor => apply(placeOp, [x], { shape, starts, steps, value })[0]

const concatOp: Op<{ axis: number }> = defineOp({
  name: 'concat',
  infer: (inputs, { axis }) => {
    const first = inputs[0]!
    for (const x of inputs) {
      expectDType('concat', 'every tensor', x!, first.dtype)
      if (x!.shape.length !== first.shape.length || x!.shape.some((n, i) => i !== axis && n !== first.shape[i]))
        fail(
          'AUX_SHAPE_MISMATCH',
          `concat: expected shapes equal but for axis ${axis}, got ${showShape(first.shape)} and ${showShape(x!.shape)}`,
        )
    }
    const size = inputs.reduce((n, x) => n + x!.shape[axis], 0)
    return [{ shape: first.shape.map((n, i) => (i === axis ? size : n)), dtype: first.dtype }]
  },
  kernel: (_, __, { axis }) => ({ name: 'concat', numbers: [axis] }),
  derive: (d) => {
    const g = d.grad()!
    const grads: (Tensor | undefined)[] = []
    for (let i = 0, at = 0; at < g.shape[d.attrs.axis] || d.has(i); i++) {
      const size = d.spec(i).shape[d.attrs.axis]
      grads.push(d.needs(i) ? g.narrow(d.attrs.axis, at, size) : undefined)
      at += size
    }
    return grads
  },
  strided: 'all',
})

/** Operands that one kernel call takes. */
const most = 24

function expectTensors(name: string, tensors: readonly Tensor[]): void {
  if (!Array.isArray(tensors) || !tensors.length)
    fail(
      'AUX_INVALID_ARGUMENT',
      `${name}: expected an array of at least one tensor, got ${Array.isArray(tensors) ? 'none' : describe(tensors)}`,
    )
  for (const t of tensors) expectTensor(name, t)
}

/** Tensors one after the other along an axis (the first by default). */
export function concat(tensors: readonly Tensor[], axis = 0): Tensor {
  expectTensors('concat', tensors)
  const at = resolveAxis('concat', axis, tensors[0].rank)
  if (tensors.length <= most) return apply(concatOp, tensors, { axis: at })[0]
  return tidy(() => {
    const parts: Tensor[] = []
    for (let i = 0; i < tensors.length; i += most) parts.push(concat(tensors.slice(i, i + most), at))
    return concat(parts, at)
  })
}

/** Tensors of one shape along a new axis (the first by default). */
export function stack(tensors: readonly Tensor[], axis = 0): Tensor {
  expectTensors('stack', tensors)
  for (const t of tensors)
    if (t.rank !== tensors[0].rank || t.shape.some((n, i) => n !== tensors[0].shape[i]))
      fail(
        'AUX_SHAPE_MISMATCH',
        `stack: expected equal shapes, got ${showShape(tensors[0].shape)} and ${showShape(t.shape)}`,
      )
  return tidy(() =>
    concat(
      tensors.map((t) => t.unsqueeze(axis)),
      resolveAxis('stack', axis, tensors[0].rank + 1),
    ),
  )
}

const flipOp: Op<{ axes: readonly number[] }> = defineOp({
  name: 'flip',
  infer: ([x]) => [x!],
  kernel: (_, __, { axes }) => ({ name: 'flip', numbers: axes }),
  derive: (d) => [d.grad()!.flip(d.attrs.axes)],
  strided: 'all',
})

const triangleOp: Op<{ diagonal: number; upper: boolean }> = defineOp({
  name: 'triangle',
  infer: ([x]) => {
    expectDType('tril', 'input', x!, 'f32')
    if (x!.shape.length < 2)
      fail('AUX_SHAPE_MISMATCH', `tril: expected at least 2 axes, got shape ${showShape(x!.shape)}`)
    return [{ shape: x!.shape, dtype: 'f32' }]
  },
  kernel: (_, __, a) => ({ name: 'triangle', numbers: [a.diagonal, a.upper ? 1 : 0] }),
  derive: (d) => [apply(triangleOp, [d.grad()!], d.attrs)[0]],
  inplace: [0],
})

/** What `pad` takes from the tensor itself. */
export type PadMode = 'reflect' | 'replicate' | 'circular'

/** The entry of an axis of `n` that stands at a place before, in or behind it. */
const entries: Record<PadMode, (at: number, n: number) => number> = {
  reflect: (at, n) => (at < 0 ? -at : at >= n ? 2 * (n - 1) - at : at),
  replicate: (at, n) => Math.min(Math.max(at, 0), n - 1),
  circular: (at, n) => (at + n) % n,
}

/** The entry of an axis of `n` that stands at each place of the padded one, i32. */
const placesOf = (mode: PadMode, before: number, n: number, after: number): Tensor =>
  tensor(Int32Array.from({ length: before + n + after }, (_, i) => entries[mode](i - before, n)))

/** Pads from the tensor itself, axis by axis. */
function extended(x: Tensor, pairs: readonly (readonly [number, number])[], mode: PadMode): Tensor {
  if (!Object.hasOwn(entries, mode))
    fail('AUX_INVALID_ARGUMENT', `pad: expected a number, 'reflect', 'replicate' or 'circular', got ${describe(mode)}`)
  return pairs.reduce((y, [before, after], axis) => {
    if (!before && !after) return y
    const n = x.shape[axis]
    const most = { reflect: n - 1, replicate: n && Infinity, circular: n }[mode]
    if (Math.max(before, after) > most || n + before + after < 1)
      fail(
        'AUX_SHAPE_MISMATCH',
        `pad: mode ${mode} cannot add ${before} and ${after} to axis ${axis} of ${showShape(x.shape)}`,
      )
    return y.indexSelect(axis, constant(placesOf, mode, before, n, after))
  }, alias(x))
}

/** First index, the one after the last (default: the end), and the step (default 1); negative ones count from the end. */
export type Range = readonly [start?: number | null, end?: number | null, step?: number]

declare module '../tensor/tensor' {
  interface Tensor {
    /**
     * A window, one range an axis (null: all of it), without copying: `x.slice([0, 10], null, [-3])`. Bounds beyond the
     * axis are cut as in Python; steps are positive.
     */
    slice(...ranges: readonly (Range | null)[]): Tensor
    /** `length` entries of an axis from `start`, without copying. */
    narrow(axis: number, start: number, length: number): Tensor
    /** One entry of an axis, which disappears; without copying. */
    select(axis: number, index: number): Tensor
    /** Parts of the given size (the last may be smaller) or sizes along an axis, without copying. */
    split(sizes: number | readonly number[], axis?: number): Tensor[]
    /** At most that many parts of equal size (the last may be smaller) along an axis (the first), without copying. */
    chunk(count: number, axis?: number): Tensor[]
    /** The entries of an axis (the first), which disappears; without copying. */
    unbind(axis?: number): Tensor[]
    /**
     * `value` before and after: a pair of counts for each axis; negative counts cut. 'reflect' mirrors at the first and
     * last entry, 'replicate' repeats them, 'circular' goes on at the other end.
     */
    pad(pairs: readonly (readonly [number, number])[], value?: number | PadMode): Tensor
    /** In reverse along axes. */
    flip(axes: number | readonly number[]): Tensor
    /** Moved along axes by as many places, what leaves at one end coming in at the other. */
    roll(shifts: number | readonly number[], axes: number | readonly number[]): Tensor
    /** Repeated as a whole, so many times along each axis (missing ones in front). */
    tile(repeats: readonly number[]): Tensor
    /** Each entry repeated along an axis. */
    repeatInterleave(repeats: number, axis?: number): Tensor
    /** Zero above the diagonal (k places right of the main one) of the last two axes. */
    tril(diagonal?: number): Tensor
    /** Zero below the diagonal. */
    triu(diagonal?: number): Tensor
  }
}

Tensor.prototype.slice = function (...ranges) {
  for (const range of ranges)
    if (range !== null && !Array.isArray(range))
      fail(
        'AUX_INVALID_ARGUMENT',
        `slice: expected [start, end] or null for each axis, got ${describe(range)}; select() takes one entry`,
      )
  if (ranges.length > this.rank)
    fail(
      'AUX_INVALID_ARGUMENT',
      `slice: expected at most ${this.rank} ranges for shape ${showShape(this.shape)}, got ${ranges.length}`,
    )
  const steps: number[] = []
  const starts: number[] = []
  const sizes = this.shape.map((n, axis) => {
    const [start, end, step = 1] = ranges[axis] ?? []
    const bound = (v: number | null | undefined, fallback: number): number => {
      if (v === undefined || v === null) return fallback
      if (!Number.isInteger(v)) fail('AUX_INVALID_ARGUMENT', `slice: expected whole bounds at axis ${axis}, got ${v}`)
      return Math.min(n, Math.max(0, v < 0 ? v + n : v))
    }
    if (!Number.isInteger(step) || step < 1)
      fail('AUX_INVALID_ARGUMENT', `slice: expected a step >= 1 at axis ${axis}, got ${step}; use flip() to reverse`)
    const from = bound(start, 0)
    starts.push(from)
    steps.push(step)
    return Math.max(0, Math.ceil((bound(end, n) - from) / step))
  })
  return window(this, starts, sizes, steps)
}
Tensor.prototype.narrow = function (axis, start, length) {
  const at = resolveAxis('narrow', axis, this.rank)
  const from = start < 0 ? start + this.shape[at] : start
  if (!Number.isInteger(start) || !Number.isInteger(length) || from < 0 || length < 0 || from + length > this.shape[at])
    fail(
      'AUX_INDEX_OUT_OF_RANGE',
      `narrow: ${length} entries from ${start} do not lie in axis ${axis} of ${showShape(this.shape)}`,
    )
  const put = (fill: readonly number[], value: number): number[] => fill.map((v, i) => (i === at ? value : v))
  return window(
    this,
    put(
      this.shape.map(() => 0),
      from,
    ),
    put(this.shape, length),
    this.shape.map(() => 1),
  )
}
Tensor.prototype.select = function (axis, index) {
  const at = resolveAxis('select', axis, this.rank)
  if (!Number.isInteger(index) || index < -this.shape[at] || index >= this.shape[at])
    fail('AUX_INDEX_OUT_OF_RANGE', `select: index ${index} is not in axis ${axis} of ${showShape(this.shape)}`)
  return tidy(() => this.narrow(at, index, 1).squeeze(at))
}
Tensor.prototype.split = function (sizes, axis = 0) {
  const at = resolveAxis('split', axis, this.rank)
  const size = this.shape[at]
  if (typeof sizes === 'number' && (!Number.isInteger(sizes) || sizes < 1))
    fail('AUX_INVALID_ARGUMENT', `split: expected a size >= 1, got ${sizes}`)
  const list =
    typeof sizes === 'number'
      ? Array.from({ length: Math.max(1, Math.ceil(size / sizes)) }, (_, i) => Math.min(sizes, size - i * sizes))
      : sizes
  if (!Array.isArray(list))
    fail('AUX_INVALID_ARGUMENT', `split: expected a size or an array of sizes, got ${describe(list)}`)
  if (list.reduce((n, s) => n + s, 0) !== size)
    fail('AUX_SHAPE_MISMATCH', `split: expected sizes that add up to ${size}, got ${showShape(list)}`)
  let from = 0
  return list.map((n) => this.narrow(at, (from += n) - n, n))
}
Tensor.prototype.chunk = function (count, axis = 0) {
  expectIntegers('chunk', { count })
  return this.split(Math.max(1, Math.ceil(this.shape[resolveAxis('chunk', axis, this.rank)] / count)), axis)
}
Tensor.prototype.unbind = function (axis = 0) {
  const size = this.shape[resolveAxis('unbind', axis, this.rank)]
  return Array.from({ length: size }, (_, i) => this.select(axis, i))
}
Tensor.prototype.pad = function (pairs, value = 0) {
  const given: unknown = pairs
  if (!Array.isArray(given) || given.length !== this.rank || !given.every((pair) => Array.isArray(pair)))
    fail(
      'AUX_INVALID_ARGUMENT',
      `pad: expected a pair [before, after] for each of ${this.rank} axes, got ${JSON.stringify(pairs)}`,
    )
  for (const n of pairs.flat())
    if (!Number.isInteger(n)) fail('AUX_INVALID_ARGUMENT', `pad: expected whole counts, got ${n}`)
  const shape = this.shape.map((n, i) => n + pairs[i][0] + pairs[i][1])
  checkShape('pad', shape)
  return tidy(() => {
    if (typeof value !== 'number') return extended(this, pairs, value)
    // Cut first, then place what is left.
    const cut = pairs.map(([before, after], i): Range => [Math.max(0, -before), this.shape[i] - Math.max(0, -after)])
    const x = this.slice(...cut)
    const starts = pairs.map(([before]) => Math.max(0, before))
    return place(
      x,
      shape,
      starts,
      shape.map(() => 1),
      asStored('pad', value, this.dtype),
    )
  })
}
const resolved = (name: string, axes: number | readonly number[], rank: number): number[] =>
  [axes].flat().map((a) => resolveAxis(name, a, rank))
Tensor.prototype.flip = function (axes) {
  return apply(flipOp, [this], { axes: [...new Set(resolved('flip', axes, this.rank))] })[0]
}
Tensor.prototype.roll = function (shifts, axes) {
  const along = resolved('roll', axes, this.rank)
  const by = [shifts].flat()
  if (by.length !== along.length)
    fail('AUX_INVALID_ARGUMENT', `roll: expected as many shifts as axes, got ${by.length} and ${along.length}`)
  return tidy(() =>
    along.reduce((x: Tensor, axis, i) => {
      const n = x.shape[axis]
      const cut = n && ((-by[i] % n) + n) % n
      return cut ? concat([x.narrow(axis, cut, n - cut), x.narrow(axis, 0, cut)], axis) : x
    }, alias(this)),
  )
}
Tensor.prototype.tile = function (repeats) {
  checkShape('tile', repeats)
  const rank = Math.max(repeats.length, this.rank)
  const full = [...new Array<number>(rank - repeats.length).fill(1), ...repeats]
  return tidy(() => {
    let x = this.reshape([...new Array<number>(rank - this.rank).fill(1), ...this.shape])
    for (let axis = rank - 1; axis >= 0; axis--) {
      if (full[axis] === 1) continue
      const [head, tail] = [x.shape.slice(0, axis), x.shape.slice(axis)]
      x = x
        .reshape([...head, 1, ...tail])
        .expand([...head, full[axis], ...tail])
        .reshape([...head, full[axis] * tail[0], ...tail.slice(1)])
    }
    return x
  })
}
Tensor.prototype.repeatInterleave = function (repeats, axis = 0) {
  const at = resolveAxis('repeatInterleave', axis, this.rank)
  checkShape('repeatInterleave', [repeats])
  const [head, tail] = [this.shape.slice(0, at + 1), this.shape.slice(at + 1)]
  return tidy(() =>
    this.reshape([...head, 1, ...tail])
      .expand([...head, repeats, ...tail])
      .reshape([...head.slice(0, -1), head[at] * repeats, ...tail]),
  )
}
Tensor.prototype.tril = function (diagonal = 0) {
  return apply(triangleOp, [this], { diagonal, upper: false })[0]
}
Tensor.prototype.triu = function (diagonal = 0) {
  return apply(triangleOp, [this], { diagonal, upper: true })[0]
}
