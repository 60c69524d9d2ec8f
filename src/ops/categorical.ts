import { expectIntegers, expectOptions, fail } from '../errors'
import { expectDType, expectTensor } from '../graph/op'
import type { Tensor } from '../tensor/tensor'
import { tidy } from '../tensor/tidy'
import { where } from './binary'
import { uniform } from './random'
import './sort'

/** How categories are drawn. */
export interface CategoricalOptions {
  /** Logits are divided by it (1); 0 always takes the largest. */
  temperature?: number
  /** Only the k largest logits can be drawn (all). */
  topK?: number
  /** Only the most probable categories can be drawn, as few as have this probability together (all). */
  topP?: number
}

/**
 * One category a row, drawn with the probabilities softmax(logits / temperature): logits f32 [..., classes] to i32
 * [...]. The next token of a language model, the action of a policy. Of topK and topP together, topK comes first.
 * Drawn by the largest of logits with Gumbel noise (Maddison et al. 2014); it has no gradient.
 */
export function categorical(logits: Tensor, options: CategoricalOptions = {}): Tensor {
  const name = 'categorical'
  expectTensor(name, logits)
  expectDType(name, 'logits', logits, 'f32')
  expectOptions(name, options, ['temperature', 'topK', 'topP'])
  const { temperature = 1, topK, topP } = options
  if (!(temperature >= 0 && Number.isFinite(temperature)))
    fail('AUX_INVALID_ARGUMENT', `${name}: expected a temperature >= 0, got ${String(temperature)}`)
  if (topK !== undefined) expectIntegers(name, { topK })
  if (topP !== undefined && !(topP > 0 && topP <= 1))
    fail('AUX_INVALID_ARGUMENT', `${name}: expected topP in (0, 1], got ${String(topP)}`)
  const classes = logits.rank ? logits.shape[logits.rank - 1] : 0
  if (classes < 1) fail('AUX_SHAPE_MISMATCH', `${name}: expected logits [..., classes], got a tensor without classes`)
  return tidy(() => {
    if (temperature === 0) return logits.argmax(-1)
    const scaled = logits.div(temperature)
    if (topK === undefined && topP === undefined) return drawn(scaled)
    const { values, indices } = scaled.topk(Math.min(topK ?? classes, classes))
    const place = drawn(topP === undefined ? values : likely(values, topP))
    return indices.gather(-1, place.unsqueeze(-1)).squeeze(-1)
  })
}

/** Sorted logits, with -Infinity where those before have the probability p already. */
function likely(sorted: Tensor, p: number): Tensor {
  const probabilities = sorted.softmax()
  const before = probabilities.cumsum(-1).sub(probabilities)
  return where(before.lt(p), sorted, -Infinity)
}

const drawn = (logits: Tensor): Tensor => logits.sub(uniform(logits.shape).log().neg().log()).argmax(-1)
