import { compile, type CompiledFunction, type Inputs } from '../compile'
import { describe, expectIntegers, expectOptions, fail } from '../errors'
import * as nn from '../nn'
import { categorical, tensor, type CategoricalOptions } from '../ops'
import type { ShapedArray } from '../tensor/host'
import type { Tensor } from '../tensor/tensor'
import { TransformerBranches } from './block'
import type { Transformer } from './seq2seq'
import { GPT } from './transformer'

/** Options of `generate`. */
export interface GenerateOptions extends CategoricalOptions {
  /** Tokens that the model can see at once: its `length`. Of a longer text it sees the end. */
  window: number
  /** Tokens to make (Infinity: until the loop is left). */
  count?: number
}

/**
 * Continues a text, token by token: `for await (const token of generate(model, prompt, { window: 256, topK: 40 })) ...`.
 * The model, in evaluation mode, takes tokens i32 [1, T] to logits [1, T, vocabulary], causally: what stands behind a
 * token does not matter. Few lengths of T are planned, each twice the one before, and the rest is padding.
 *
 * A `GPT` keeps keys and values of what it has seen (8 bytes · layers · features · window), so that a token costs one
 * position, until the text is longer than the window: from then on positions shift with every token, and the whole
 * window is computed again, as it is for other models.
 */
export async function* generate(
  model: nn.Module & { forward(tokens: Tensor): Tensor },
  prompt: ArrayLike<number>,
  options: GenerateOptions,
): AsyncGenerator<number, void> {
  expectOptions('generate', options, ['window', 'count', 'temperature', 'topK', 'topP'])
  const { window, count = Infinity, ...drawing } = options
  expectIntegers('generate', { window })
  if (!(count >= 0)) fail('AUX_INVALID_ARGUMENT', `generate: expected count >= 0, got ${String(count)}`)
  const text = Array.from(prompt ?? []).slice(-window)
  if (!text.length) fail('AUX_INVALID_ARGUMENT', 'generate: expected a prompt of at least one token, got none')
  for (const token of text)
    if (!Number.isSafeInteger(token))
      fail('AUX_INVALID_ARGUMENT', `generate: expected a prompt of whole numbers, got ${describe(token)}`)
  const whole = compile({ model, forward: ({ tokens, last }) => drawn(model.forward(tokens), last, drawing) })
  let memory = remembers(model, window)
    ? new Memory(model, model.blocks.length, model.tokens.weight.shape[1], window, drawing, ({ tokens }, past) =>
        model.forward(tokens, past),
      )
    : undefined
  try {
    for (let made = 0; made < count; made++) {
      let token: number
      if (memory) token = await memory.next(text)
      else {
        const tokens = padded(text, planned(text.length, window))
        const { data } = await whole.run({
          tokens: { data: tokens, shape: [1, tokens.length] },
          last: Int32Array.of(text.length - 1),
        })
        token = data[0]
      }
      text.push(token)
      if (text.length > window) {
        text.shift()
        memory?.close()
        memory = undefined
      }
      yield token
    }
  } finally {
    memory?.close()
    whole.close()
  }
}

/** Options of `translate`. */
export interface TranslateOptions extends CategoricalOptions {
  /** The token that begins a target. */
  begin: number
  /** The token at which a target ends; it is not yielded. */
  end?: number
  /** Most tokens to make. */
  length: number
}

/**
 * Decodes, token by token, what an encoder-decoder makes of a source: the likeliest token each time (greedily), or drawn
 * with a `temperature` above 0. The source is encoded once, and a token costs one position of the decoder, which keeps keys
 * and values of source and target (8 bytes · layers · features, for each position).
 */
export async function* translate(
  model: Transformer,
  source: ArrayLike<number>,
  options: TranslateOptions,
): AsyncGenerator<number, void> {
  expectOptions('translate', options, ['begin', 'end', 'length', 'temperature', 'topK', 'topP'])
  const { begin, end, length, temperature = 0, ...drawing } = options
  expectIntegers('translate', { length })
  expectIntegers('translate', { begin }, 0)
  const given = Array.from(source ?? [])
  if (!given.length) fail('AUX_INVALID_ARGUMENT', 'translate: expected a source of at least one token, got none')
  const tokens = padded(given, planned(given.length, Infinity), model.padding)
  const shaped = { data: tokens, shape: [1, tokens.length] }
  const encoder = compile({
    model,
    forward: (inputs: Inputs) => {
      const context = model.encode(inputs.source)
      return named(model.decoder.map((block) => block.cross.project(context)))
    },
  })
  const [blocks, features] = [model.decoder.length, model.tokens.weight.shape[1]]
  let memory: Memory | undefined
  const held: Tensor[] = []
  const hold = (values: ShapedArray): Tensor => held[held.push(tensor(values)) - 1]
  try {
    const made = await encoder.run({ source: shaped })
    const context = model.decoder.map((_, i) => [hold(made[`${i} 0`]), hold(made[`${i} 1`])] as const)
    const seen = hold(shaped)
    memory = new Memory(model, blocks, features, length, { temperature, ...drawing }, (inputs, past) =>
      model.decode(inputs.tokens, context, seen, past),
    )
    for (const text = [begin]; text.length <= length;) {
      const token = await memory.next(text)
      if (token === end) return
      text.push(token)
      yield token
    }
  } finally {
    memory?.close()
    encoder.close()
    for (const t of held) t.dispose()
  }
}

/** Keys and values of each block, by name. */
const named = (blocks: readonly nn.KeysAndValues[]): Record<string, Tensor> =>
  Object.fromEntries(blocks.flatMap((pair, i) => pair.map((t, k) => [`${i} ${k}`, t] as const)))

/** Entries that a plan for n of them has. */
const planned = (n: number, window: number): number => Math.min(window, Math.max(16, 2 ** Math.ceil(Math.log2(n))))

const padded = (text: readonly number[], length: number, padding = 0): Int32Array =>
  Int32Array.from({ length }, (_, i) => text[i] ?? padding)

/** Whether a model can go on from keys and values: a GPT as it is here, perhaps with other linear layers. */
const remembers = (model: nn.Module, window: number): model is GPT =>
  model instanceof GPT &&
  model.forward === GPT.prototype.forward &&
  window <= model.positions.weight.shape[0] &&
  [...model.blocks].every((b) => b instanceof TransformerBranches && b.attention instanceof nn.MultiHeadAttention)

/** The next token, by the logits [1, T, vocabulary] behind the last one. */
const drawn = (logits: Tensor, last: Tensor, options: CategoricalOptions): Tensor =>
  categorical(logits.select(0, 0).indexSelect(0, last).select(0, 0), options)

/** A text that grows, and what attention remembers of it. */
class Memory {
  readonly #past: nn.Past[]
  readonly #step: CompiledFunction<Record<string, Tensor>>
  readonly #window: number
  #seen = 0

  constructor(
    model: nn.Module,
    blocks: number,
    features: number,
    window: number,
    drawing: CategoricalOptions,
    logits: (inputs: Inputs, past: { positions: Tensor; blocks: nn.Past[] }) => Tensor,
  ) {
    this.#window = window
    const past = Array.from({ length: blocks }, () => new nn.Past(window, features))
    this.#past = past
    this.#step = compile({
      model,
      forward: (inputs: Inputs) => {
        for (const p of past) p.seen = 'seen' in inputs ? inputs.seen : undefined
        const token = drawn(logits(inputs, { positions: inputs.positions, blocks: past }), inputs.last, drawing)
        return { token, ...named(past.map((p) => p.made!)) }
      },
    })
  }

  /** The token behind a text that goes on from the one of the call before. */
  async next(text: readonly number[]): Promise<number> {
    const start = this.#seen
    const fresh = text.slice(start)
    const tokens = padded(fresh, start ? fresh.length : planned(fresh.length, this.#window))
    const seen = Float32Array.from({ length: planned(start, this.#window) }, (_, i) => (i < start ? 0 : -Infinity))
    const made = await this.#step.run({
      tokens: { data: tokens, shape: [1, tokens.length] },
      positions: tokens.map((_, i) => start + i),
      last: Int32Array.of(fresh.length - 1),
      ...(start && { seen }),
    })
    this.#past.forEach((p, i) => {
      const [keys, values] = [0, 1].map((k) => made[`${i} ${k}`].data as Float32Array)
      p.add(start, fresh.length, keys, values)
    })
    this.#seen = text.length
    return made.token.data[0]
  }

  close(): void {
    this.#step.close()
    for (const p of this.#past) p.dispose()
  }
}
