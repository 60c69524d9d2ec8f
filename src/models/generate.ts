import { compile, type CompiledFunction } from '../compile'
import { expectIntegers, expectOptions, fail } from '../errors'
import * as nn from '../nn'
import { categorical, type CategoricalOptions } from '../ops'
import { describe } from '../tensor/host'
import type { Tensor } from '../tensor/tensor'
import { TransformerBranches } from './block'
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
  const draw = (logits: Tensor, last: Tensor): Tensor =>
    categorical(logits.select(0, 0).indexSelect(0, last).select(0, 0), drawing)
  const whole = compile({ model, forward: ({ tokens, last }) => draw(model.forward(tokens), last) })
  let memory = remembers(model, window) ? new Memory(model, window, draw) : undefined
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

/** Entries that a plan for n of them has. */
const planned = (n: number, window: number): number => Math.min(window, Math.max(16, 2 ** Math.ceil(Math.log2(n))))

const padded = (text: readonly number[], length: number): Int32Array =>
  Int32Array.from({ length }, (_, i) => text[i] ?? 0)

/** Whether a model can go on from keys and values: a GPT as it is here, perhaps with other linear layers. */
const remembers = (model: nn.Module, window: number): model is GPT =>
  model instanceof GPT &&
  model.forward === GPT.prototype.forward &&
  window <= model.positions.weight.shape[0] &&
  [...model.blocks].every((b) => b instanceof TransformerBranches && b.attention instanceof nn.MultiHeadAttention)

/** A text that grows, and what attention remembers of it. */
class Memory {
  readonly #past: nn.Past[]
  readonly #step: CompiledFunction<Record<string, Tensor>>
  readonly #window: number
  #seen = 0

  constructor(model: GPT, window: number, draw: (logits: Tensor, last: Tensor) => Tensor) {
    this.#window = window
    const past = model.blocks.map(() => new nn.Past(window, model.norm.weight.size))
    this.#past = past
    this.#step = compile({
      model,
      forward: (inputs) => {
        for (const p of past) p.seen = 'seen' in inputs ? inputs.seen : undefined
        const logits = model.forward(inputs.tokens, { positions: inputs.positions, blocks: past })
        const made = past.flatMap((p, i) => p.made!.map((t, k) => [`${i} ${k}`, t] as const))
        return { token: draw(logits, inputs.last), ...Object.fromEntries(made) }
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
