import { eagerly, tracing } from '../graph/graph'
import { apply, defineOp, expectDType, expectShape } from '../graph/op'
import { describe, fail } from '../errors'
import { bytesPerElement, type TypedArray } from '../tensor/dtype'
import { contiguousStrides, showShape, sizeOf, type Shape } from '../tensor/shape'
import { Storage } from '../tensor/storage'
import { Tensor, type Spec } from '../tensor/tensor'
import { keep, tidy } from '../tensor/tidy'
import { codeSpecs, dequantize, groupElements, quantize, type CodeBits } from './quantize'
import { randomFor } from './random'

// Values of f32 tensors in fewer bytes: what reads them gets f32, and nobody else needs to know.

/** Formats in which a module can store weights: bfloat16, or codes of 8 or 4 bits where they are frozen. */
export type StoreFormat = 'bf16' | 'q8' | 'q4'

interface Codec {
  /** The tensors that hold values of this shape; a name is what is put behind that of the values in files. */
  parts(shape: Shape): Record<string, Spec>
  encode(x: Tensor): Tensor[]
  decode(parts: readonly Tensor[], shape: Shape): Tensor
  /** Elements that are only read together. */
  readonly group: number
  /** Whether a step can change them: what learns may be stored so. */
  readonly learns: boolean
}

const codes = (bits: CodeBits): Codec => ({
  parts: (shape) => {
    const [codes, ranges] = codeSpecs(shape, bits)
    return { '.codes': codes, '.ranges': ranges }
  },
  encode: (x) => {
    const { codes, ranges } = quantize(x, bits, 'nearest')
    return [codes, ranges]
  },
  decode: ([codes, ranges], shape) => dequantize({ codes, ranges }, bits, shape),
  group: groupElements,
  learns: false,
})

const codecs: Record<StoreFormat, Codec> = {
  bf16: {
    parts: (shape) => ({ '': { shape, dtype: 'bf16' } }),
    encode: (x) => [x.cast('bf16')],
    decode: ([x]) => x.cast('f32'),
    group: 1,
    learns: true,
  },
  q8: codes(8),
  q4: codes(4),
}

/** @internal Throws unless it is one of these or another one that the caller takes. */
export function checkStoreFormat(caller: string, format: unknown, ...others: string[]): void {
  const known = [...Object.keys(codecs), ...others]
  if (!known.includes(format as string))
    fail('AUX_INVALID_ARGUMENT', `${caller}: expected one of ${known.join(', ')}, got ${describe(format)}`)
}

/** @internal Whether what learns can be stored so. */
export const canLearn = (format: StoreFormat | 'f32' = 'f32'): boolean => format === 'f32' || codecs[format].learns

const bytesOf = ({ shape, dtype }: Spec): number => sizeOf(shape) * bytesPerElement(dtype)

/** @internal Bytes of values of this shape in a format. */
export const storedBytes = (format: StoreFormat, shape: Shape): number =>
  Object.values(codecs[format].parts(shape)).reduce((n, spec) => n + bytesOf(spec), 0)

/** @internal How the values of an f32 tensor lie in its memory where they are not f32 there. */
export class Packed {
  /** Tensors on the same memory, by what is put behind the name of the values in files. */
  readonly parts: ReadonlyMap<string, Tensor>

  constructor(
    readonly format: StoreFormat,
    readonly shape: Shape,
    storage: Storage,
  ) {
    let begin = 0
    const part = (spec: Spec): Tensor => {
      const { shape, dtype } = spec
      const layout = { shape, strides: contiguousStrides(shape), offset: begin / bytesPerElement(dtype) }
      begin += bytesOf(spec)
      return keep(new Tensor({ dtype, layout, storage }))
    }
    this.parts = new Map(Object.entries(codecs[format].parts(shape)).map(([name, spec]) => [name, part(spec)]))
  }

  /** The values, f32: a new tensor, traced where a step is. */
  read(): Tensor {
    return codecs[this.format].decode([...this.parts.values()], this.shape)
  }

  /** The values in JavaScript memory, also while a step is traced. */
  values(): TypedArray {
    return eagerly(() => tidy(() => this.read().rawSync()))
  }

  /** Whether rows can be read without the others. */
  get hasRows(): boolean {
    return (sizeOf(this.shape) / this.shape[0]) % codecs[this.format].group === 0
  }

  /** Values of this shape, f32: the rows that `pick` takes of what holds all of them, [rows, ...]. */
  rows(pick: (rows: Tensor) => Tensor, shape: Shape): Tensor {
    const { parts, decode } = codecs[this.format]
    const specs = Object.values(parts(shape))
    const picked = [...this.parts.values()].map((part, i) =>
      pick(part.reshape([this.shape[0], -1])).reshape(specs[i].shape),
    )
    return decode(picked, shape)
  }

  /** Overwrites the values with these, f32 or such as they are stored, rounded to the nearest that can be said. */
  assign(values: Tensor | TypedArray | readonly number[]): void {
    const { format, shape } = this
    const others = values instanceof Tensor && values.packed?.format === format ? values.packed.parts : undefined
    const size = values instanceof Tensor ? values.size : values.length
    if (size !== sizeOf(shape))
      fail('AUX_SHAPE_MISMATCH', `assign: expected ${sizeOf(shape)} values for shape ${showShape(shape)}, got ${size}`)
    if (values instanceof Tensor && values.dtype !== 'f32')
      fail('AUX_DTYPE_MISMATCH', `assign: expected f32, got ${values.dtype}`)
    eagerly(() =>
      tidy(() => {
        const plain = (): Tensor =>
          values instanceof Tensor ? values : Tensor.from(Float32Array.from(values), shape, 'f32')
        const from = others ? [...others.values()] : codecs[format].encode(plain())
        ;[...this.parts.values()].forEach((part, i) => part.assign(from[i]))
      }),
    )
  }
}

const roundOp = defineOp<{ id: number }>({
  name: 'round',
  infer: ([patterns, x]) => {
    expectDType('assign', 'values', x, 'f32')
    expectShape('assign', 'values', x, patterns!.shape)
    return []
  },
  kernel: (_, __, { id }) => ({ name: 'round_bf16', numbers: [id] }),
  mutates: [0],
  constant: true,
})

/** @internal What a step changes in the place of a stored tensor. */
export interface Changing {
  /** bf16, on the same memory. */
  patterns: Tensor
  /** Key of the random numbers by which f32 is rounded, i32 [4]. */
  key: Tensor
  /** Their stream. */
  id: number
}

/**
 * @internal What a step changes in the place of a stored tensor; undefined if it is f32, or in codes (which ops
 * refuse to change).
 */
export function changing(t: Tensor): Changing | undefined {
  const patterns = t.packed && canLearn(t.packed.format) ? t.packed.parts.get('') : undefined
  if (!patterns) return undefined
  tracing()?.reference(t) // a plan that only writes it is to know when it has come to lie elsewhere
  return { patterns, ...randomFor([t]) }
}

/**
 * @internal Overwrites patterns with f32 values, each rounded down or up by chance so that the mean is the value (Gupta et
 * al. 2015); infinities and NaN stay. Above the largest bf16 it may become infinite, as when rounded to the nearest.
 */
export const roundInto = ({ patterns, key, id }: Changing, values: Tensor): void =>
  void apply(roundOp, [patterns, values, key], { id })

/** @internal A tensor of this shape in a format; its values are to be assigned. */
export function emptyPacked(format: StoreFormat, shape: Shape, what?: string): Tensor & { packed: Packed } {
  const storage = new Storage(storedBytes(format, shape), { what })
  const packed = new Packed(format, shape, storage)
  const layout = { shape, strides: contiguousStrides(shape), offset: 0 }
  return new Tensor({ dtype: 'f32', layout, storage, packed }) as Tensor & { packed: Packed }
}
