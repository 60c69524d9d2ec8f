import { compile } from '../compile'
import { expectIntegers, expectOptions, fail } from '../errors'
import type * as nn from '../nn'
import { categorical, type CategoricalOptions } from '../ops'
import { describe } from '../tensor/host'
import type { Tensor } from '../tensor/tensor'

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
  const next = compile({
    model,
    forward: ({ tokens, last }) =>
      categorical(model.forward(tokens).select(0, 0).indexSelect(0, last).select(0, 0), drawing),
  })
  try {
    for (let made = 0; made < count; made++) {
      const length = Math.min(window, Math.max(16, 2 ** Math.ceil(Math.log2(text.length))))
      const tokens = Int32Array.from({ length }, (_, i) => text[i] ?? 0)
      const { data } = await next.run({
        tokens: { data: tokens, shape: [1, length] },
        last: Int32Array.of(text.length - 1),
      })
      text.push(data[0])
      if (text.length > window) text.shift()
      yield data[0]
    }
  } finally {
    next.close()
  }
}
