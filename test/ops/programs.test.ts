import fc from 'fast-check'
import {
  compile,
  concat,
  dot,
  einsum,
  memory,
  meshgrid,
  oneHot,
  outer,
  stack,
  tensor,
  tidy,
  valueAndGrad,
  where,
  type DType,
  type Tensor,
} from '../../src'
import { native } from '../../src/native'
import { check } from '../support/property'
import { broadcast, comparisons, eachIndex, sizeOf } from '../support/reference'
import { bytes, generator } from '../support/run'

// Random programs of the ops that move, join, select, compare and sum values, on small whole numbers, against a plain
// interpreter in doubles: each value has its derivative along one direction beside it, so that gradients are compared
// with what they are and not with differences. AUXGRAD_FUZZ=n runs n times as many, AUXGRAD_SEED others.
const times = Number(process.env.AUXGRAD_FUZZ ?? (process.env.AUXGRAD_LONG === '1' ? 30 : 1))

/** Values `v` and their derivatives `d`, in row-major order. */
interface Value {
  readonly shape: readonly number[]
  readonly dtype: DType
  readonly v: Float64Array
  readonly d: Float64Array
  /** Whether a gradient flows through it. */
  readonly flows: boolean
}

/** An instruction: what it makes of earlier values, as tensors and as values. */
interface Instruction {
  readonly is: string
  readonly operands: readonly number[]
  readonly f: (...operands: Tensor[]) => Tensor
  readonly value: Value
}

/** A whole number in [0, n). */
type Draw = (n: number) => number
type Made = Pick<Instruction, 'f' | 'value'>

const indexOf = (shape: readonly number[], index: readonly number[]): number =>
  shape.reduce((at, n, axis) => at * n + index[axis], 0)

/** Each element one of an operand's (by position) or a number. */
function picked(shape: readonly number[], from: Value, at: (index: number[]) => readonly number[] | null, other = 0) {
  const [v, d] = [new Float64Array(sizeOf(shape)).fill(other), new Float64Array(sizeOf(shape))]
  eachIndex(shape, (index, to) => {
    const place = at(index)
    if (!place) return
    v[to] = from.v[indexOf(from.shape, place)]
    d[to] = from.d[indexOf(from.shape, place)]
  })
  return { ...from, shape, v, d }
}

const still = (shape: readonly number[], dtype: DType, values: ArrayLike<number>): Value => ({
  ...{ shape, dtype, v: Float64Array.from(values), d: new Float64Array(values.length), flows: false },
})

const reshaped = (x: Value, shape: readonly number[]): Value => ({ ...x, shape })

/** f of each element, and its derivative. */
const mapped = (x: Value, f: (v: number) => number, slope?: (v: number) => number, dtype = x.dtype): Value => ({
  ...x,
  dtype,
  v: x.v.map(f),
  d: slope ? x.d.map((d, i) => d * slope(x.v[i])) : new Float64Array(x.d.length),
  flows: x.flows && slope !== undefined,
})

/** f of two elements, with broadcasting; `rule` gives the derivative. */
function zipped(
  x: Value,
  y: Value,
  f: (a: number, b: number) => number,
  rule?: (a: number, b: number, da: number, db: number) => number,
  dtype = x.dtype,
): Value {
  const shape = broadcast([...x.shape], [...y.shape])
  const [a, b] = [x, y].map((t) => expanded(t, shape))
  return {
    ...{ shape, dtype },
    v: a.v.map((v, i) => f(v, b.v[i])),
    d: a.v.map((v, i) => (rule ? rule(v, b.v[i], a.d[i], b.d[i]) : 0)),
    flows: rule !== undefined && (x.flows || y.flows),
  }
}

const expanded = (x: Value, shape: readonly number[]): Value => {
  const lead = shape.length - x.shape.length
  return picked(shape, x, (index) => x.shape.map((n, i) => (n === 1 ? 0 : index[i + lead])))
}

/** Along axes: f of the positions of the elements that share the other indices. */
function reduced(x: Value, axes: readonly number[], keep: boolean, f: (places: number[]) => [number, number]): Value {
  const shape = x.shape.flatMap((n, i) => (axes.includes(i) ? (keep ? [1] : []) : [n]))
  const lists = Array.from({ length: sizeOf(shape) }, (): number[] => [])
  eachIndex(x.shape, (index, at) => {
    const rest = index.flatMap((n, i) => (axes.includes(i) ? (keep ? [0] : []) : [n]))
    lists[indexOf(shape, rest)].push(at)
  })
  const pairs = lists.map(f)
  return { ...x, shape, v: Float64Array.from(pairs, ([v]) => v), d: Float64Array.from(pairs, ([, d]) => d) }
}

/** Sums of products by the letters of axes. */
function contracted(letters: readonly string[], output: string, operands: readonly Value[]): Value {
  const sizes = new Map<string, number>()
  letters.forEach((axes, i) => [...axes].forEach((a, k) => sizes.set(a, operands[i].shape[k])))
  const all = [...output, ...[...sizes.keys()].filter((a) => !output.includes(a))]
  const shape = [...output].map((a) => sizes.get(a)!)
  const [v, d] = [new Float64Array(sizeOf(shape)), new Float64Array(sizeOf(shape))]
  eachIndex(
    all.map((a) => sizes.get(a)!),
    (index) => {
      const places = letters.map((axes, i) =>
        indexOf(
          operands[i].shape,
          [...axes].map((a) => index[all.indexOf(a)]),
        ),
      )
      const to = indexOf(shape, index.slice(0, shape.length))
      v[to] += places.reduce((p, at, i) => p * operands[i].v[at], 1)
      places.forEach((own, k) => {
        d[to] += places.reduce((p, at, i) => p * (i === k ? operands[i].d[own] : operands[i].v[at]), 1)
      })
    },
  )
  return { shape, dtype: 'f32', v, d, flows: operands.some((x) => x.flows) }
}

/** A constant of a program, laid out in one of several ways. */
function constantOf(values: ArrayLike<number>, shape: readonly number[], dtype: DType, way: number): Tensor {
  const t = tensor(Float64Array.from(values), shape, dtype)
  if (way === 1 && t.rank > 1) {
    const reverse = shape.map((_, i) => t.rank - 1 - i)
    return t.permute(reverse).clone().permute(reverse)
  }
  if (way === 2 && t.rank > 0) {
    const last = t.rank - 1
    return t.repeatInterleave(2, last).slice(...shape.map((_, i) => (i === last ? ([0, null, 2] as const) : null)))
  }
  return t
}

const indicesFor = (draw: Draw, shape: readonly number[], size: number): Value =>
  still(
    shape,
    'i32',
    Array.from({ length: sizeOf(shape) }, () => draw(size)),
  )
const held = ({ v, shape, dtype }: Value, way: number): Tensor => constantOf(v, shape, dtype, way)

const order = (draw: Draw, n: number): number[] => {
  const left = Array.from({ length: n }, (_, i) => i)
  return Array.from({ length: n }, () => left.splice(draw(left.length), 1)[0])
}
const some = (draw: Draw, n: number): number[] => Array.from({ length: n }, (_, i) => i).filter(() => draw(2))
const signed = (draw: Draw, axis: number, rank: number): number => (draw(2) ? axis : axis - rank)
const put = (list: readonly number[], at: number, ...values: number[]): number[] => [
  ...list.slice(0, at),
  ...values,
  ...list.slice(at + 1),
]
const dtypes = (x: Value, ...kinds: DType[]): boolean => kinds.includes(x.dtype)

/** An axis of x, as the caller names it and as it is. */
function axisOf(draw: Draw, x: Value): { axis: number; named: number; n: number } {
  const axis = draw(x.shape.length)
  return { axis, named: signed(draw, axis, x.shape.length), n: x.shape[axis] }
}

/** A window of an axis. */
const narrowed = (x: Value, axis: number, start: number, length: number): Value =>
  picked(put(x.shape, axis, length), x, (index) => put(index, axis, index[axis] + start))

const joined = (parts: readonly Value[], axis: number): Value => {
  const whole = put(
    parts[0].shape,
    axis,
    parts.reduce((n, p) => n + p.shape[axis], 0),
  )
  const result = still(whole, parts[0].dtype, new Float64Array(sizeOf(whole)))
  let from = 0
  for (const p of parts) {
    eachIndex(p.shape, (index, at) => {
      const to = indexOf(whole, put(index, axis, index[axis] + from))
      result.v[to] = p.v[at]
      result.d[to] = p.d[at]
    })
    from += p.shape[axis]
  }
  return { ...result, flows: parts.some((p) => p.flows) }
}

/** Positions of the last axis in the order of their values, stably. */
const sortedPlaces = (x: Value, descending: boolean, count: number): Value => {
  const n = x.shape[x.shape.length - 1]
  const shape = [...x.shape.slice(0, -1), count]
  const rows = sizeOf(x.shape.slice(0, -1))
  const places = Array.from({ length: rows }, (_, r) =>
    Array.from({ length: n }, (_, i) => i)
      .sort((i, j) => (descending ? -1 : 1) * (x.v[r * n + i] - x.v[r * n + j]) || i - j)
      .slice(0, count),
  )
  return still(shape, 'i32', places.flat())
}
const takenLast = (x: Value, places: Value): Value =>
  picked(places.shape, x, (index) => [...index.slice(0, -1), places.v[indexOf(places.shape, index)]])

/** One operand. */
const unary: Record<string, (x: Value, draw: Draw) => Made | undefined> = {
  permute: (x, draw) => {
    const to = order(draw, x.shape.length)
    const shape = to.map((a) => x.shape[a])
    return { f: (t) => t.permute(to), value: picked(shape, x, (index) => to.map((_, i) => index[to.indexOf(i)])) }
  },
  transpose: (x, draw) => {
    if (!x.shape.length) return undefined
    const [a, b] = [axisOf(draw, x), axisOf(draw, x)]
    const swap = (list: readonly number[]): number[] =>
      list.map((v, i) => (i === a.axis ? list[b.axis] : i === b.axis ? list[a.axis] : v))
    return { f: (t) => t.transpose(a.named, b.named), value: picked(swap(x.shape), x, swap) }
  },
  reshape: (x, draw) => {
    let left = sizeOf(x.shape)
    const shape: number[] = []
    while (left > 1 && shape.length < 3) {
      const divisors = Array.from({ length: left }, (_, i) => i + 1).filter((n) => left % n === 0)
      shape.push(divisors[draw(divisors.length)])
      left /= shape[shape.length - 1]
    }
    shape.splice(draw(shape.length + 1), 0, left)
    const hidden = draw(2) && left ? put(shape, shape.indexOf(left), -1) : shape
    return { f: (t) => t.reshape(hidden), value: reshaped(x, shape) }
  },
  flatten: (x, draw) => {
    const ends = order(draw, Math.max(1, x.shape.length)).slice(0, 2).sort()
    const [from, to] = [ends[0], ends[ends.length - 1]]
    const shape = x.shape.length
      ? [...x.shape.slice(0, from), sizeOf(x.shape.slice(from, to + 1)), ...x.shape.slice(to + 1)]
      : [1]
    return { f: (t) => t.flatten(from, to), value: reshaped(x, shape) }
  },
  unsqueeze: (x, draw) => {
    const at = draw(x.shape.length + 1)
    const shape = [...x.shape.slice(0, at), 1, ...x.shape.slice(at)]
    return { f: (t) => t.unsqueeze(signed(() => at % 2, at, shape.length)), value: reshaped(x, shape) }
  },
  squeeze: (x, draw) => {
    const ones = x.shape.flatMap((n, i) => (n === 1 ? [i] : []))
    if (!ones.length || draw(3) === 0)
      return {
        f: (t) => t.squeeze(),
        value: reshaped(
          x,
          x.shape.filter((n) => n !== 1),
        ),
      }
    const at = ones[draw(ones.length)]
    return { f: (t) => t.squeeze(at), value: reshaped(x, put(x.shape, at)) }
  },
  expand: (x, draw) => {
    const shape = [...Array.from({ length: draw(2) }, () => draw(4)), ...x.shape.map((n) => (n === 1 ? draw(4) : n))]
    return { f: (t) => t.expand(shape), value: expanded(x, shape) }
  },
  slice: (x, draw) => {
    const ranges = x.shape.map((n): [number | null, number | null, number] | null =>
      draw(3)
        ? [draw(2) ? draw(2 * n + 3) - n - 1 : null, draw(2) ? draw(2 * n + 3) - n - 1 : null, 1 + draw(3)]
        : null,
    )
    const places = x.shape.map((n, i) => {
      const all = Array.from({ length: n }, (_, k) => k)
      if (!ranges[i]) return all
      const [start, end, step] = ranges[i]
      return all.slice(start ?? 0, end ?? n).filter((_, k) => k % step === 0)
    })
    const shape = places.map((p) => p.length)
    return { f: (t) => t.slice(...ranges), value: picked(shape, x, (index) => index.map((k, i) => places[i][k])) }
  },
  narrow: (x, draw) => {
    if (!x.shape.length) return undefined
    const { axis, named, n } = axisOf(draw, x)
    const start = draw(n + 1)
    const length = draw(n - start + 1)
    return { f: (t) => t.narrow(named, start, length), value: narrowed(x, axis, start, length) }
  },
  select: (x, draw) => {
    if (!x.shape.length) return undefined
    const { axis, named, n } = axisOf(draw, x)
    if (!n) return undefined
    const at = draw(n)
    const [index, unbound] = [signed(draw, at, n), draw(2)]
    return {
      f: (t) => (unbound ? t.unbind(named)[at] : t.select(named, index)),
      value: reshaped(narrowed(x, axis, at, 1), put(x.shape, axis)),
    }
  },
  split: (x, draw) => {
    if (!x.shape.length) return undefined
    const { axis, named, n } = axisOf(draw, x)
    const size = 1 + draw(3)
    const part = draw(Math.max(1, Math.ceil(n / size)))
    return {
      f: (t) => t.split(size, named)[part],
      value: narrowed(x, axis, part * size, Math.min(size, n - part * size)),
    }
  },
  chunk: (x, draw) => {
    if (!x.shape.length) return undefined
    const { axis, named, n } = axisOf(draw, x)
    const size = Math.max(1, Math.ceil(n / (1 + draw(3))))
    const count = Math.max(1, Math.ceil(n / size))
    const part = draw(count)
    return {
      f: (t) => t.chunk(Math.max(1, Math.ceil(n / size)), named)[part],
      value: narrowed(x, axis, part * size, Math.min(size, n - part * size)),
    }
  },
  diagonal: (x, draw) => {
    if (x.shape.length < 2) return undefined
    const [rows, columns] = x.shape.slice(-2)
    const offset = draw(rows + columns + 1) - rows
    const size = Math.min(rows + Math.min(0, offset), columns - Math.max(0, offset))
    return {
      f: (t) => t.diagonal(offset),
      value: picked([...x.shape.slice(0, -2), size], x, (index) => {
        const k = index[index.length - 1]
        return [...index.slice(0, -1), k + Math.max(0, -offset), k + Math.max(0, offset)]
      }),
    }
  },
  diagEmbed: (x, draw) => {
    if (!x.shape.length || x.shape.length > 3) return undefined
    const offset = draw(5) - 2
    const side = x.shape[x.shape.length - 1] + Math.abs(offset)
    return {
      f: (t) => t.diagEmbed(offset),
      value: picked([...x.shape.slice(0, -1), side, side], x, (index) => {
        const [row, column] = index.slice(-2)
        return column - row === offset ? [...index.slice(0, -2), Math.min(row, column)] : null
      }),
    }
  },
  pad: (x, draw) => {
    const pairs = x.shape.map((n) => {
      const before = draw(4) - 1
      const pair: [number, number] = [before, Math.max(-n - Math.max(before, 0), draw(4) - 1)]
      return n + pair[0] + pair[1] >= 0 && n + Math.min(0, pair[0]) >= 0 ? pair : ([0, 0] as [number, number])
    })
    const cut = pairs.every(([a, b], i) => x.shape[i] + Math.min(0, a) + Math.min(0, b) >= 0)
    if (!cut) return undefined
    const value = x.dtype === 'bool' ? draw(2) : x.dtype === 'u8' ? draw(9) : draw(9) - 4
    const shape = x.shape.map((n, i) => n + pairs[i][0] + pairs[i][1])
    const inside = (index: number[]): number[] | null => {
      const from = index.map((k, i) => k - pairs[i][0])
      return from.every((k, i) => k >= 0 && k < x.shape[i]) ? from : null
    }
    return { f: (t) => t.pad(pairs, value), value: picked(shape, x, inside, value) }
  },
  'pad from itself': (x, draw) => {
    const mode = (['reflect', 'replicate', 'circular'] as const)[draw(3)]
    if (x.shape.includes(0)) return undefined
    const pairs = x.shape.map((n): [number, number] => {
      const most = mode === 'reflect' ? n - 1 : mode === 'circular' ? n : 3
      return [Math.min(most, draw(4)), Math.min(most, draw(4))]
    })
    const shape = x.shape.map((n, i) => n + pairs[i][0] + pairs[i][1])
    const entry = (at: number, n: number): number =>
      mode === 'circular'
        ? (at + n) % n
        : mode === 'replicate'
          ? Math.min(n - 1, Math.max(0, at))
          : n - 1 - Math.abs(n - 1 - Math.abs(at))
    return {
      f: (t) => t.pad(pairs, mode),
      value: picked(shape, x, (index) => index.map((k, i) => entry(k - pairs[i][0], x.shape[i]))),
    }
  },
  flip: (x, draw) => {
    const axes = some(draw, x.shape.length)
    return {
      f: (t) => t.flip(axes),
      value: picked(x.shape, x, (index) => index.map((k, i) => (axes.includes(i) ? x.shape[i] - 1 - k : k))),
    }
  },
  roll: (x, draw) => {
    const axes = some(draw, x.shape.length)
    const shifts = axes.map(() => draw(15) - 7)
    const from = (k: number, i: number): number => {
      const at = axes.indexOf(i)
      const n = x.shape[i]
      return at < 0 ? k : (((k - shifts[at]) % n) + n) % n
    }
    return { f: (t) => t.roll(shifts, axes), value: picked(x.shape, x, (index) => index.map(from)) }
  },
  tile: (x, draw) => {
    const repeats = Array.from({ length: draw(Math.min(4, x.shape.length + 2)) }, () => draw(3))
    const rank = Math.max(repeats.length, x.shape.length)
    const lead = rank - x.shape.length
    const full = [...new Array<number>(rank - repeats.length).fill(1), ...repeats]
    const shape = full.map((n, i) => n * (i < lead ? 1 : x.shape[i - lead]))
    return {
      f: (t) => t.tile(repeats),
      value: picked(shape, x, (index) => x.shape.map((n, i) => index[i + lead] % n)),
    }
  },
  repeatInterleave: (x, draw) => {
    if (!x.shape.length) return undefined
    const { axis, named, n } = axisOf(draw, x)
    const times = draw(4)
    return {
      f: (t) => t.repeatInterleave(times, named),
      value: picked(put(x.shape, axis, n * times), x, (index) => put(index, axis, Math.floor(index[axis] / times))),
    }
  },
  triangle: (x, draw) => {
    if (x.shape.length < 2 || !dtypes(x, 'f32')) return undefined
    const [k, upper] = [draw(5) - 2, draw(2)]
    return {
      f: (t) => (upper ? t.triu(k) : t.tril(k)),
      value: picked(x.shape, x, (index) => {
        const [row, column] = index.slice(-2)
        return (upper ? column - row >= k : column - row <= k) ? index : null
      }),
    }
  },
  detach: (x) => ({ f: (t) => t.detach(), value: { ...still(x.shape, x.dtype, x.v) } }),
  clone: (x) => ({ f: (t) => t.clone(), value: x }),
  neg: (x) =>
    dtypes(x, 'f32')
      ? {
          f: (t) => t.neg(),
          value: mapped(
            x,
            (v) => -v,
            () => -1,
          ),
        }
      : undefined,
  abs: (x) => (dtypes(x, 'f32') ? { f: (t) => t.abs(), value: mapped(x, Math.abs, Math.sign) } : undefined),
  square: (x) =>
    dtypes(x, 'f32')
      ? {
          f: (t) => t.square(),
          value: mapped(
            x,
            (v) => v * v,
            (v) => 2 * v,
          ),
        }
      : undefined,
  relu: (x) =>
    dtypes(x, 'f32')
      ? { f: (t) => t.relu(), value: mapped(x, (v) => Math.max(0, v), (v) => Number(v > 0)) } // prettier-ignore
      : undefined,
  half: (x) =>
    dtypes(x, 'f32')
      ? { f: (t) => t.div(2).add(1), value: mapped(x, (v) => v / 2 + 1, () => 0.5) } // prettier-ignore
      : undefined,
  cast: (x, draw) => {
    const to = (['f32', 'i32', 'u8', 'bool'] as const)[draw(4)]
    const least = to === 'u8' ? 0 : -Infinity
    if (x.v.some((v) => v < least || v > (to === 'u8' ? 255 : 1e6))) return undefined
    if (to === x.dtype) return { f: (t) => t.cast(to), value: x }
    const f = to === 'bool' ? (v: number) => Number(v !== 0) : to === 'f32' ? (v: number) => v : Math.trunc
    return { f: (t) => t.cast(to), value: mapped(x, f, undefined, to) }
  },
  compare: (x, draw) => {
    const [name, k] = [(['eq', 'ne', 'lt', 'le', 'gt', 'ge'] as const)[draw(6)], draw(5) - 2]
    if (dtypes(x, 'u8', 'bool')) return undefined
    return { f: (t) => t[name](k), value: mapped(x, (v) => Number(comparisons[name](v, k)), undefined, 'bool') }
  },
  not: (x) => (dtypes(x, 'bool') ? { f: (t) => t.logicalNot(), value: mapped(x, (v) => 1 - v) } : undefined),
  reduce: (x, draw) => {
    const name = (['sum', 'mean', 'max', 'min', 'prod', 'var', 'norm1', 'normInf', 'any', 'all'] as const)[draw(10)]
    const axes = draw(4) ? some(draw, x.shape.length) : x.shape.map((_, i) => i)
    const keep = draw(2) === 1
    const named =
      axes.length === x.shape.length && draw(2) ? undefined : axes.map((a) => signed(draw, a, x.shape.length))
    const terms = axes.reduce((n, a) => n * x.shape[a], 1)
    if (!terms && name !== 'sum' && name !== 'prod') return undefined
    if (name === 'any' || name === 'all') {
      const f = (places: number[]): [number, number] => [
        Number(name === 'any' ? places.some((i) => x.v[i] !== 0) : places.every((i) => x.v[i] !== 0)),
        0,
      ]
      if (dtypes(x, 'u8')) return undefined
      return { f: (t) => t[name](named, keep), value: { ...reduced(x, axes, keep, f), dtype: 'bool', flows: false } }
    }
    if (name === 'sum' && dtypes(x, 'bool'))
      return {
        f: (t) => t.sum(named, keep),
        value: { ...reduced(x, axes, keep, (places) => [places.filter((i) => x.v[i]).length, 0]), dtype: 'i32' },
      }
    if (!dtypes(x, 'f32', ...(['sum', 'max', 'min'].includes(name) ? (['i32'] as const) : []))) return undefined
    if (name === 'var' && terms < 2) return undefined
    const share = (places: number[], top: number): number => {
      const hits = places.filter((i) => x.v[i] === top)
      return hits.reduce((s, i) => s + x.d[i], 0) / hits.length
    }
    const total = (places: number[], of: Float64Array): number => places.reduce((s, i) => s + of[i], 0)
    const rules: Record<typeof name, (places: number[]) => [number, number]> = {
      sum: (p) => [total(p, x.v), total(p, x.d)],
      mean: (p) => [total(p, x.v) / terms, total(p, x.d) / terms],
      max: (p) => [Math.max(...p.map((i) => x.v[i])), share(p, Math.max(...p.map((i) => x.v[i])))],
      min: (p) => [Math.min(...p.map((i) => x.v[i])), share(p, Math.min(...p.map((i) => x.v[i])))],
      prod: (p) => [
        p.reduce((v, i) => v * x.v[i], 1),
        p.reduce((s, k) => s + p.reduce((v, i) => v * (i === k ? x.d[i] : x.v[i]), 1), 0),
      ],
      var: (p) => {
        const m = total(p, x.v) / terms
        return [
          p.reduce((s, i) => s + (x.v[i] - m) ** 2, 0) / (terms - 1),
          p.reduce((s, i) => s + 2 * (x.v[i] - m) * x.d[i], 0) / (terms - 1),
        ]
      },
      norm1: (p) => [
        p.reduce((s, i) => s + Math.abs(x.v[i]), 0),
        p.reduce((s, i) => s + Math.sign(x.v[i]) * x.d[i], 0),
      ],
      normInf: (p) => {
        const top = Math.max(...p.map((i) => Math.abs(x.v[i])))
        const hits = p.filter((i) => Math.abs(x.v[i]) === top)
        return [top, hits.reduce((s, i) => s + Math.sign(x.v[i]) * x.d[i], 0) / hits.length]
      },
    }
    const f = (t: Tensor): Tensor =>
      name === 'var'
        ? t.var(named, { keep })
        : name === 'norm1'
          ? t.norm(named, { p: 1, keep })
          : name === 'normInf'
            ? t.norm(named, { p: Infinity, keep })
            : t[name](named, keep)
    return { f, value: reduced(x, axes, keep, rules[name]) }
  },
  argmax: (x, draw) => {
    if (!x.shape.length || !dtypes(x, 'f32')) return undefined
    const { axis, named, n } = axisOf(draw, x)
    if (!n) return undefined
    const [keep, most] = [draw(2) === 1, draw(2)]
    const first = (p: number[]): [number, number] => {
      const values = p.map((i) => x.v[i])
      return [values.indexOf(most ? Math.max(...values) : Math.min(...values)), 0]
    }
    return {
      f: (t) => (most ? t.argmax(named, keep) : t.argmin(named, keep)),
      value: { ...reduced(x, [axis], keep, first), dtype: 'i32', flows: false },
    }
  },
  sort: (x, draw) => {
    if (!x.shape.length || !dtypes(x, 'f32', 'i32')) return undefined
    const [descending, way] = [draw(2) === 1, draw(3)]
    const n = x.shape[x.shape.length - 1]
    const count = draw(2) ? n : draw(n + 1)
    const places = sortedPlaces(x, descending, count)
    const sorted = (t: Tensor) => (count < n ? t.topk(count, { largest: descending }) : t.sort({ descending }))
    if (way) return { f: (t) => sorted(t).values, value: takenLast(x, places) }
    return { f: (t) => (count < n ? sorted(t).indices : t.argsort({ descending })), value: places }
  },
  cumulate: (x, draw) => {
    if (!x.shape.length || !dtypes(x, 'f32')) return undefined
    const { axis, named } = axisOf(draw, x)
    const product = draw(2)
    const value = { ...x, v: x.v.slice(), d: x.d.slice() }
    eachIndex(x.shape, (index, at) => {
      if (!index[axis]) return
      const before = indexOf(x.shape, put(index, axis, index[axis] - 1))
      const [v, d] = [value.v[before], value.d[before]]
      value.d[at] = product ? d * x.v[at] + v * x.d[at] : d + x.d[at]
      value.v[at] = product ? v * x.v[at] : v + x.v[at]
    })
    return { f: (t) => (product ? t.cumprod(named) : t.cumsum(named)), value }
  },
  indexSelect: (x, draw) => {
    if (!x.shape.length) return undefined
    const { axis, named, n } = axisOf(draw, x)
    const shape = Array.from({ length: draw(3) }, () => draw(4))
    if (!n && sizeOf(shape)) return undefined
    const [indices, way] = [indicesFor(draw, shape, n), draw(3)]
    const value = picked([...x.shape.slice(0, axis), ...shape, ...x.shape.slice(axis + 1)], x, (index) => [
      ...index.slice(0, axis),
      indices.v[indexOf(shape, index.slice(axis, axis + shape.length))],
      ...index.slice(axis + shape.length),
    ])
    return { f: (t) => t.indexSelect(named, held(indices, way)), value }
  },
  gather: (x, draw) => {
    if (!x.shape.length) return undefined
    const { axis, named, n } = axisOf(draw, x)
    const shape = x.shape.map((size, i) => (i === axis ? draw(4) : draw(size + 1)))
    if (!n && sizeOf(shape)) return undefined
    const [indices, way] = [indicesFor(draw, shape, n), draw(3)]
    const value = picked(shape, x, (index) => put(index, axis, indices.v[indexOf(shape, index)]))
    return { f: (t) => t.gather(named, held(indices, way)), value }
  },
  oneHot: (x, draw) => {
    if (!dtypes(x, 'i32', 'u8') || x.v.some((v) => v < 0 || v > 5)) return undefined
    const classes = 6 + draw(2)
    const shape = [...x.shape, classes]
    const hot = still(shape, 'f32', new Float64Array(sizeOf(shape)))
    x.v.forEach((v, i) => (hot.v[i * classes + v] = 1))
    return { f: (t) => oneHot(t, classes), value: hot }
  },
}

const spreads = (x: Value, y: Value): boolean =>
  broadcast([...x.shape], [...y.shape]).every((n, i, all) =>
    [x, y].every(({ shape }) => {
      const own = shape[i - all.length + shape.length] ?? 1
      return own === n || own === 1
    }),
  )

/** Two operands; undefined where they do not fit. */
const binary: Record<string, (x: Value, y: Value, draw: Draw) => Made | undefined> = {
  arithmetic: (x, y, draw) => {
    if (x.dtype !== y.dtype || !dtypes(x, 'f32', 'i32') || !spreads(x, y)) return undefined
    const name = (['add', 'sub', 'mul', 'maximum', 'minimum'] as const)[draw(5)]
    const value = {
      add: () => zipped(x, y, (a, b) => a + b, (_, __, da, db) => da + db), // prettier-ignore
      sub: () => zipped(x, y, (a, b) => a - b, (_, __, da, db) => da - db), // prettier-ignore
      mul: () => zipped(x, y, (a, b) => a * b, (a, b, da, db) => a * db + b * da), // prettier-ignore
      maximum: () => zipped(x, y, Math.max, (a, b, da, db) => (a >= b ? da : db)),
      minimum: () => zipped(x, y, Math.min, (a, b, da, db) => (a <= b ? da : db)),
    }[name]()
    return { f: (s, t) => s[name](t), value }
  },
  compare: (x, y, draw) => {
    if (x.dtype !== y.dtype || !spreads(x, y)) return undefined
    const name = (['eq', 'ne', 'lt', 'le', 'gt', 'ge'] as const)[draw(6)]
    return {
      f: (s, t) => s[name](t),
      value: zipped(x, y, (a, b) => Number(comparisons[name](a, b)), undefined, 'bool'),
    }
  },
  logic: (x, y, draw) => {
    if (!dtypes(x, 'bool') || !dtypes(y, 'bool') || !spreads(x, y)) return undefined
    const name = (['logicalAnd', 'logicalOr', 'logicalXor'] as const)[draw(3)]
    const rule = { logicalAnd: (a: number, b: number) => a & b, logicalOr: (a: number, b: number) => a | b } as const
    return { f: (s, t) => s[name](t), value: zipped(x, y, name === 'logicalXor' ? (a, b) => a ^ b : rule[name]) }
  },
  where: (x, y, draw) => {
    if (!dtypes(x, 'bool') || !dtypes(y, 'f32', 'i32') || !spreads(x, y)) return undefined
    const [k, first] = [draw(5) - 2, draw(2)]
    const value = zipped(x, y, (c, v) => (c === first ? v : k), (c, _, __, d) => (c === first ? d : 0), y.dtype) // prettier-ignore
    return { f: (c, t) => (first ? where(c, t, k) : t.maskedFill(c, k)), value }
  },
  concat: (x, y, draw) => {
    if (!x.shape.length || x.dtype !== y.dtype || x.shape.length !== y.shape.length) return undefined
    const { axis, named } = axisOf(draw, x)
    if (x.shape.some((n, i) => i !== axis && n !== y.shape[i])) return undefined
    return { f: (s, t) => concat([s, t, s], named), value: joined([x, y, x], axis) }
  },
  stack: (x, y, draw) => {
    if (x.dtype !== y.dtype || `${x.shape}` !== `${y.shape}`) return undefined
    const axis = draw(x.shape.length + 1)
    const parts = [x, y].map((t) => reshaped(t, [...t.shape.slice(0, axis), 1, ...t.shape.slice(axis)]))
    return { f: (s, t) => stack([s, t], axis), value: joined(parts, axis) }
  },
  meshgrid: (x, y, draw) => {
    if (x.shape.length !== 1 || y.shape.length !== 1) return undefined
    const xy = draw(2)
    const shape = xy ? [y.shape[0], x.shape[0]] : [x.shape[0], y.shape[0]]
    const at = 1 - xy
    return {
      f: (s, t) => meshgrid([s, t], { indexing: xy ? 'xy' : 'ij' })[1],
      value: picked(shape, y, (index) => [index[at]]),
    }
  },
  product: (x, y) => {
    if (!dtypes(x, 'f32') || !dtypes(y, 'f32') || x.shape.length !== 1 || y.shape.length !== 1) return undefined
    if (x.shape[0] === y.shape[0]) return { f: dot, value: contracted(['a', 'a'], '', [x, y]) }
    return { f: outer, value: contracted(['a', 'b'], 'ab', [x, y]) }
  },
  matmul: (x, y) => {
    const [m, n] = [x.shape.length, y.shape.length]
    if (!dtypes(x, 'f32') || !dtypes(y, 'f32') || !m || !n) return undefined
    if (x.shape[m - 1] !== y.shape[Math.max(0, n - 2)]) return undefined
    const lead = [x, y].map(({ shape }) => shape.slice(0, -2))
    const batch = broadcast([...lead[0]], [...lead[1]])
    if (!lead.every((s) => s.every((size, i) => size === 1 || size === batch[i - s.length + batch.length])))
      return undefined
    const left = m === 1 ? x : expanded(x, [...batch, ...x.shape.slice(-2)])
    const right = n === 1 ? y : expanded(y, [...batch, ...y.shape.slice(-2)])
    const letters = 'efghij'.slice(0, batch.length)
    const [a, b] = [m === 1 ? 'k' : `${letters}mk`, n === 1 ? 'k' : `${letters}kn`]
    const output = `${m > 1 || n > 1 ? letters : ''}${m > 1 ? 'm' : ''}${n > 1 ? 'n' : ''}`
    return { f: (s, t) => s.matmul(t), value: contracted([a, b], output, [left, right]) }
  },
  einsum: (x, y, draw) => {
    if (!dtypes(x, 'f32') || !dtypes(y, 'f32')) return undefined
    // Letters of equal sizes, drawn from few, so that some are shared, some repeated, some of one operand alone.
    const sizes = new Map<string, number>()
    const letters = [x, y].map(({ shape }) =>
      shape.map((n) => {
        const known = [...sizes].filter(([, size]) => size === n).map(([a]) => a)
        const a = known.length && draw(2) ? known[draw(known.length)] : 'abcdefghijklmnop'[sizes.size]
        sizes.set(a, n)
        return a
      }),
    )
    const output = order(draw, sizes.size)
      .map((i) => [...sizes.keys()][i])
      .filter(() => draw(2))
      .join('')
    const axes = letters.map((l) => l.join(''))
    return { f: (s, t) => einsum(`${axes.join(',')}->${output}`, s, t), value: contracted(axes, output, [x, y]) }
  },
  scatterAdd: (x, y, draw) => {
    if (!dtypes(x, 'f32') || !dtypes(y, 'f32') || !x.shape.length || x.shape.length !== y.shape.length) return undefined
    const { axis, named, n } = axisOf(draw, x)
    if (y.shape.some((size, i) => i !== axis && size > x.shape[i]) || (!n && sizeOf(y.shape))) return undefined
    const [indices, way] = [indicesFor(draw, y.shape, n), draw(3)]
    const value = { ...x, v: x.v.slice(), d: x.d.slice(), flows: x.flows || y.flows }
    eachIndex(y.shape, (index, at) => {
      const to = indexOf(x.shape, put(index, axis, indices.v[at]))
      value.v[to] += y.v[at]
      value.d[to] += y.d[at]
    })
    return { f: (s, t) => s.scatterAdd(named, held(indices, way), t), value }
  },
  indexAdd: (x, y, draw) => {
    if (!dtypes(x, 'f32') || !dtypes(y, 'f32') || !x.shape.length || x.shape.length !== y.shape.length) return undefined
    const { axis, named, n } = axisOf(draw, x)
    if (y.shape.some((size, i) => i !== axis && size !== x.shape[i]) || (!n && y.shape[axis])) return undefined
    const [indices, way] = [indicesFor(draw, [y.shape[axis]], n), draw(3)]
    const value = { ...x, v: x.v.slice(), d: x.d.slice(), flows: x.flows || y.flows }
    eachIndex(y.shape, (index, at) => {
      const to = indexOf(x.shape, put(index, axis, indices.v[index[axis]]))
      value.v[to] += y.v[at]
      value.d[to] += y.d[at]
    })
    return { f: (s, t) => s.indexAdd(named, held(indices, way), t), value }
  },
}

interface Program {
  readonly leaves: readonly { shape: number[]; dtype: DType; seed: number; way: number }[]
  readonly steps: readonly { is: string; seed: number }[]
}

const many = ['reduce', 'argmax', 'sort', 'cumulate', 'arithmetic', 'matmul', 'einsum', 'product', 'scatterAdd']
const names = [...Object.keys(unary), ...Object.keys(binary), ...many, ...many]

const plain = { noNullPrototype: true }
const program: fc.Arbitrary<Program> = fc.record(
  {
    leaves: fc.array(
      fc.record(
        {
          shape: fc.array(fc.constantFrom(1, 1, 2, 2, 3, 3, 3, 4, 4, 0), { maxLength: 3 }),
          dtype: fc.constantFrom<DType>('f32', 'f32', 'f32', 'i32', 'u8', 'bool'),
          seed: fc.nat(1e6),
          way: fc.nat(2),
        },
        plain,
      ),
      { minLength: 1, maxLength: 3 },
    ),
    steps: fc.array(fc.record({ is: fc.constantFrom(...names), seed: fc.nat(1e6) }, plain), {
      minLength: 1,
      maxLength: 16,
    }),
  },
  plain,
)

/** Values of the leaves, and the instructions that fit. */
function built({ leaves, steps }: Program): { pool: Value[]; instructions: Instruction[] } {
  const pool = leaves.map(({ shape, dtype, seed }): Value => {
    const random = generator(seed)
    const [low, high] = dtype === 'bool' ? [0, 2] : dtype === 'f32' ? [-3, 4] : [0, 4]
    const v = Float64Array.from({ length: sizeOf(shape) }, () => low + Math.floor((high - low) * random()))
    const d = v.map(() => (dtype === 'f32' ? Math.floor(7 * random()) - 3 : 0))
    return { shape, dtype, v, d, flows: dtype === 'f32' }
  })
  const instructions: Instruction[] = []
  for (const { is, seed } of steps) {
    const random = generator(seed)
    const draw: Draw = (n) => Math.floor(n * random())
    const operand = (): number => Math.max(draw(pool.length), draw(pool.length))
    const [i, first] = [operand(), operand()]
    let made: Made | undefined
    let operands = [i]
    // What draws later, when it is traced or run again, draws the same.
    const frozen = (): Draw => {
      const own = generator(seed + 1)
      return (n) => Math.floor(n * own())
    }
    if (is in unary) made = unary[is](pool[i], frozen())
    else
      for (let k = 0; k < pool.length && !made; k++) {
        operands = [i, (first + k) % pool.length]
        made = binary[is](pool[i], pool[operands[1]], frozen())
      }
    if (!made) continue
    const { value } = made
    if (value.shape.length > 5 || value.v.length > 200 || [...value.v, ...value.d].some((v) => !(Math.abs(v) < 600)))
      continue
    if (value.v.some((v) => v * 4 !== Math.round(v * 4))) continue // what compares values would depend on rounding
    instructions.push({ is, operands, ...made })
    pool.push(value)
  }
  return { pool, instructions }
}

/** The values of a program, given its leaves as tensors. */
function run(leaves: readonly Tensor[], instructions: readonly Instruction[]): Tensor[] {
  const all = [...leaves]
  for (const { operands, f } of instructions) all.push(f(...operands.map((i) => all[i])))
  return all
}

/** Which values nobody reads. */
function ends(pool: readonly Value[], instructions: readonly Instruction[]): number[] {
  const read = new Set(instructions.flatMap(({ operands }) => operands))
  return pool.flatMap((_, i) => (read.has(i) ? [] : [i]))
}

const { isa, isaAvailable } = native().info()
afterEach(() => native().setIsa(isa))

test(
  'random programs: values and gradients are those of an interpreter, at once and planned',
  async () => {
    await check(150 * times, program, fc.constantFrom(...isaAvailable), async (p, set) => {
      native().setIsa(set)
      const before = memory().live
      tidy(() => {
        const { pool, instructions } = built(p)
        const leaves = p.leaves.map(({ way }, i) => constantOf(pool[i].v, pool[i].shape, pool[i].dtype, way))
        const all = run(leaves, instructions)
        all.forEach((t, i) => {
          const { is = 'leaf', operands = [] } = instructions[i - leaves.length] ?? {}
          expect([is, i, t.dtype, t.shape]).toEqual([is, i, pool[i].dtype, pool[i].shape])
          const got = t.dataSync()
          pool[i].v.forEach((v, k) => {
            if (!(Math.abs(got[k] - v) <= 1e-5 * Math.max(1, Math.abs(v))))
              throw new Error(`${is} of ${operands.join()} makes value ${i}, element ${k} is ${got[k]}, expected ${v}`)
          })
          expect([is, all.indexOf(t)]).toEqual([is, i]) // each result is a tensor of its own
        })
        const last = ends(pool, instructions)
        const g = compile((inputs: Record<string, Tensor>) => {
          const traced = run(
            leaves.map((_, i) => inputs[`x${i}`]),
            instructions,
          )
          return Object.fromEntries(last.map((i) => [`y${i}`, traced[i]]))
        })
        const planned = g.runSync(Object.fromEntries(leaves.map((t, i) => [`x${i}`, t])))
        g.close()
        for (const i of last)
          expect([i, planned[`y${i}`].shape, bytes(planned[`y${i}`].data)]).toEqual([
            i,
            all[i].shape,
            bytes(all[i].rawSync()),
          ])
        const wanted = leaves.flatMap((_, i) => (pool[i].dtype === 'f32' ? [i] : []))
        const sinks = last.filter((i) => pool[i].flows)
        if (!sinks.length) return
        const random = generator(p.steps[0].seed)
        const weights = sinks.map((i) => Float64Array.from(pool[i].v, () => Math.floor(5 * random()) - 2))
        const { grads } = valueAndGrad((...xs) => {
          const inputs = [...leaves]
          wanted.forEach((i, k) => (inputs[i] = xs[k]))
          const traced = run(inputs, instructions)
          return sinks.map((i, k) => traced[i].mul(tensor(weights[k], pool[i].shape)).sum()).reduce((a, b) => a.add(b))
        })(...wanted.map((i) => leaves[i]))
        let [own, expected, scale] = [0, 0, 1]
        sinks.forEach((i, k) => pool[i].d.forEach((d, e) => (expected += d * weights[k][e])))
        grads.forEach((t, k) => {
          expect(t.shape).toEqual(leaves[wanted[k]].shape)
          t.dataSync().forEach((v, e) => {
            own += v * pool[wanted[k]].d[e]
            scale += Math.abs(v * pool[wanted[k]].d[e])
          })
        })
        if (!(Math.abs(own - expected) <= 1e-5 * scale))
          throw new Error(
            `${instructions.map(({ is, operands }) => `${is}(${operands.join()})`).join(' ')}: the slope is ${own}, expected ${expected}`,
          )
      })
      expect(memory().live).toBe(before)
    })
  },
  60000 + 60000 * times,
)
