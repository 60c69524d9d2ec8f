import { sessionOf } from '../compile/session'
import { describe, expectOptions, fail, listed } from '../errors'
import { toHostArray, writeSafetensors, type RawTensor, type ReadOptions } from '../io'
import { narrowed } from '../io/convert'
import { tensorsOf } from '../io/safetensors'
import { Conv1d, Conv3d, Module } from '../nn'
import { emptyPacked } from '../ops/store'
import type { HostArray } from '../tensor/host'
import { Tensor } from '../tensor/tensor'

/** How a model lies in a safetensors file. */
export interface WeightsOptions {
  /**
   * `torch`: convolution weights lie as [out, in, kh, kw] ([out, in, k] of `Conv1d`, [out, in, kd, kh, kw] of `Conv3d`),
   * the order of PyTorch and Hugging Face; they are turned to and from ours, [out, kh, kw, in]. Linear weights lie alike in both. Running statistics are
   * named as there, `running_mean`, and `num_batches_tracked` is passed over where no norm averages over batches.
   */
  layout?: 'auxgrad' | 'torch'
  /** Name in the file of each tensor of the model; the same name unless given. */
  name?: (path: string) => string
}

/** What types refuse and JavaScript does not. */
function check(what: string, model: unknown, options: WeightsOptions, names: readonly string[]): void {
  if (!(model instanceof Module)) fail('AUX_INVALID_ARGUMENT', `${what}: expected a module, got ${describe(model)}`)
  expectOptions(what, options, ['layout', 'name', ...names])
  const { layout } = options
  if (layout !== undefined && layout !== 'auxgrad' && layout !== 'torch')
    fail('AUX_INVALID_ARGUMENT', `${what}: expected layout 'auxgrad' or 'torch', got ${describe(layout)}`)
}

/** Name in the file of each tensor of the model. */
function naming({ layout, name = (path) => path }: WeightsOptions): (path: string) => string {
  if (layout !== 'torch') return name
  return (path) =>
    name(path).replace(/\b(runningMean|runningVar|numBatchesTracked)$/, (own) =>
      own.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`),
    )
}

// Where the channels of the input, our last axis and PyTorch's second, go.
const outermost = (rank: number): number[] => [rank - 1, ...Array.from({ length: rank - 2 }, (_, i) => i + 1)]
const innermost = (rank: number): number[] => [...Array.from({ length: rank - 2 }, (_, i) => i + 2), 1]

const turned = ({ data, shape, dtype }: HostArray, order: readonly number[]): HostArray => {
  const t = Tensor.from(data, shape, dtype)
  const view = t.permute(order)
  try {
    return { data: view.rawSync(), shape: view.shape, dtype }
  } finally {
    view.dispose()
    t.dispose()
  }
}

/** True of what is a convolution weight: all tensors of four axes, and the weights of `Conv1d` and `Conv3d`. */
function convolutions(model: Module): (t: Tensor) => boolean {
  const rows = new Set<Tensor>()
  for (const [, m] of model.namedModules()) if (m instanceof Conv1d || m instanceof Conv3d) rows.add(m.weight)
  return (t) => t.rank === 4 || rows.has(t)
}

const narrow = { bf16: 'BF16', f16: 'F16' } as const

/**
 * Writes parameters and buffers to a safetensors file, atomically: those after the runs of the model's step that were asked
 * for so far, whole. With `dtype` what is float32 is rounded to 2 bytes an element (the model is not); `loadWeights` and
 * other programs read that.
 * @throws AUX_WRITE_FAILED; AUX_INVALID_ARGUMENT for a value beyond the range of f16, and where two tensors have one name.
 */
export async function saveWeights(
  file: string,
  model: Module,
  options: WeightsOptions & { dtype?: 'f32' | 'bf16' | 'f16' } = {},
): Promise<void> {
  check('saveWeights', model, options, ['dtype'])
  const { layout = 'auxgrad', dtype = 'f32' } = options
  if (dtype !== 'f32' && !Object.hasOwn(narrow, dtype))
    fail('AUX_INVALID_ARGUMENT', `saveWeights: expected dtype 'f32', 'bf16' or 'f16', got ${describe(dtype)}`)
  const name = naming(options)
  const tensors = new Map<string, HostArray | RawTensor>()
  await sessionOf(model).enqueue(async () => {
    const isConvolution = convolutions(model)
    for (const [path, t] of model.state()) {
      const held = t.packed?.parts.get('') ?? t // bf16 as such
      const host = { data: held.rawSync(), shape: t.shape, dtype: held.dtype }
      const laid = layout === 'torch' && isConvolution(t) ? turned(host, [0, ...outermost(t.rank)]) : host
      if (tensors.has(name(path)))
        fail('AUX_INVALID_ARGUMENT', `saveWeights: expected a name for each tensor, got ${name(path)} for ${path} too`)
      tensors.set(name(path), dtype === 'f32' || laid.dtype !== 'f32' ? laid : narrowed(laid, narrow[dtype], path))
    }
  })
  await writeSafetensors(file, tensors)
}

/** A tensor of a file in the dtype of one of the model, or as bf16 where that is what the model stores. */
function hostOf(raw: RawTensor, own: Tensor, what: string): HostArray {
  return toHostArray(raw, own.packed?.format === 'bf16' && raw.dtype === 'BF16' ? 'bf16' : own.dtype, what)
}

/** A tensor with these values, stored as that of the model is. */
function made({ data, shape, dtype }: HostArray, own: Tensor): Tensor {
  if (!own.packed) return Tensor.from(data, shape, dtype)
  const t = emptyPacked(own.packed.format, shape)
  const patterns = dtype === 'bf16' ? t.packed.parts.get('')! : t
  patterns.assign(data)
  return t
}

/**
 * Loads parameters and buffers from a safetensors file or a sharded index of some, tensor by tensor. Other float types are
 * converted; what the model stores in fewer bytes (`Module.store`) is at no time float32 as a whole.
 * They change between two runs of the model's plans, so that a server may load them while it predicts.
 * @throws AUX_BAD_FILE, and as `Module.loadState`: nothing changes unless all fits.
 */
export async function loadWeights(
  file: string,
  model: Module,
  options: WeightsOptions & { strict?: boolean } & ReadOptions = {},
): Promise<void> {
  check('loadWeights', model, options, ['strict', 'only', 'allowLinks'])
  const { layout = 'auxgrad', name: _, strict, ...reading } = options
  const name = naming(options)
  const values = new Map<string, Tensor>()
  const counts = layout === 'torch' ? /\bnum_batches_tracked$/ : /^$/
  const unclaimed = new Set<string>()
  const isConvolution = convolutions(model)
  const readers = new Map<string, [path: string, own: Tensor][]>()
  for (const [path, own] of model.state()) readers.set(name(path), [...(readers.get(name(path)) ?? []), [path, own]])
  try {
    for await (const [key, raw] of tensorsOf(file, reading)) {
      if (!readers.has(key) && !counts.test(key)) unclaimed.add(key)
      for (const [path, own] of readers.get(key) ?? []) {
        let host = hostOf(raw, own, `${file}: ${key}`)
        if (layout === 'torch' && isConvolution(own) && host.shape.length === own.rank)
          host = turned(host, [0, ...innermost(own.rank)])
        values.set(path, made(host, own))
      }
    }
    const missing = [...model.state().keys()].filter((path) => !values.has(path))
    if ((strict ?? true) && (missing.length || unclaimed.size))
      fail(
        'AUX_BAD_FILE',
        `${file}: expected the tensors of the model; missing ${listed(missing.map(name))}, not the model's ${listed(unclaimed)}`,
      )
    await sessionOf(model).enqueue(async () => model.loadState(values, { strict: false }))
  } finally {
    for (const t of values.values()) t.dispose()
  }
}
