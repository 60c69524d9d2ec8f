import { compile, nn, optim, tensor, type Tensor } from '../../src'

const size = 257
const wave = (phase: number, scale: number): Float32Array =>
  Float32Array.from({ length: size }, (_, i) => scale * Math.sin(1.3 * i + phase))

class Line extends nn.Module {
  w = new nn.Parameter(tensor(wave(0, 1), [size]))
  forward(x: Tensor): Tensor {
    return this.w.mul(x).sum()
  }
}

/** The weights after steps on loss = w · x, whose gradient is x. */
async function trained(optimizer: optim.Base, gradients: readonly Float32Array[]): Promise<ArrayLike<number>> {
  const model = new Line()
  const step = compile({ model, loss: ({ x }) => model.forward(x), optimizer })
  for (const data of gradients) await step.run({ x: { data, shape: [size], dtype: 'f32' } })
  const weights = model.w.dataSync()
  step.close()
  model.dispose()
  optimizer.dispose()
  return weights
}

/** Kingma & Ba 2015, algorithm 1, in double precision; with weight decay as L2 or decoupled (Loshchilov & Hutter 2019). */
function adam(
  gradients: readonly Float32Array[],
  { lr, decay, decoupled, beta1 = 0.9, beta2 = 0.999, eps = 1e-8 }: Record<string, number>,
): Float64Array {
  const w = Float64Array.from(wave(0, 1))
  const [m, v] = [new Float64Array(size), new Float64Array(size)]
  gradients.forEach((gradient, k) => {
    for (let i = 0; i < size; i++) {
      if (decoupled) w[i] *= 1 - lr * decay
      const g = gradient[i] + (decoupled ? 0 : decay * w[i])
      m[i] = beta1 * m[i] + (1 - beta1) * g
      v[i] = beta2 * v[i] + (1 - beta2) * g * g
      w[i] -= (lr * (m[i] / (1 - beta1 ** (k + 1)))) / (Math.sqrt(v[i] / (1 - beta2 ** (k + 1))) + eps)
    }
  })
  return w
}

/** Largest difference, relative to the weight or to one step. */
function error(weights: ArrayLike<number>, expected: Float64Array, lr: number): number {
  return expected.reduce((worst, w, i) => Math.max(worst, Math.abs(weights[i] - w) / Math.max(lr, Math.abs(w))), 0)
}

describe('optimizers against double precision', () => {
  // Large steps, so that the rounding of the weights themselves does not hide an error of the update.
  const lr = 0.5
  for (const steps of [1, 2, 30]) {
    const gradients = Array.from({ length: steps }, (_, k) => wave(0.7 * k + 0.4, 10 ** (k % 3)))
    test(`Adam, ${steps} steps`, async () => {
      expect(
        error(await trained(new optim.Adam({ lr }), gradients), adam(gradients, { lr, decay: 0, decoupled: 0 }), lr),
      ).toBeLessThan(2e-6)
    })
    test(`Adam with L2, ${steps} steps`, async () => {
      expect(
        error(
          await trained(new optim.Adam({ lr, weightDecay: 0.1 }), gradients),
          adam(gradients, { lr, decay: 0.1, decoupled: 0 }),
          lr,
        ),
      ).toBeLessThan(2e-6)
    })
    test(`AdamW, ${steps} steps`, async () => {
      expect(
        error(
          await trained(new optim.AdamW({ lr, weightDecay: 0.1 }), gradients),
          adam(gradients, { lr, decay: 0.1, decoupled: 1 }),
          lr,
        ),
      ).toBeLessThan(2e-6)
    })
  }
})
