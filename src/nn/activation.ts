import { expectIntegers, expectOptions, fail } from '../errors'
import { full, where, type GeluOptions } from '../ops'
import { resolveAxis, showShape } from '../tensor/shape'
import type { Tensor } from '../tensor/tensor'
import { tidy } from '../tensor/tidy'
import { Module } from './module'
import { Parameter } from './parameter'
import { seluAlpha, seluScale } from './selu'

/** max(x, 0). */
export class ReLU extends Module {
  /** Elementwise, any shape. */
  forward(x: Tensor): Tensor {
    return x.relu()
  }
}
/** x Φ(x) (Hendrycks & Gimpel 2016): with the error function, or the approximation by tanh. */
export class GELU extends Module {
  readonly #options: GeluOptions

  constructor(options: GeluOptions = {}) {
    super()
    expectOptions('GELU', options, ['approximate'])
    this.#options = options
  }
  /** Elementwise, any shape. */
  forward(x: Tensor): Tensor {
    return x.gelu(this.#options)
  }
}
/** x · sigmoid(x) (Elfwing et al. 2017). */
export class SiLU extends Module {
  /** Elementwise, any shape. */
  forward(x: Tensor): Tensor {
    return x.silu()
  }
}
/** Hyperbolic tangent. */
export class Tanh extends Module {
  /** Elementwise, any shape. */
  forward(x: Tensor): Tensor {
    return x.tanh()
  }
}
/** 1 / (1 + exp(−x)). */
export class Sigmoid extends Module {
  /** Elementwise, any shape. */
  forward(x: Tensor): Tensor {
    return x.sigmoid()
  }
}
/** x above 0, slope · x below. */
export class LeakyReLU extends Module {
  constructor(
    /** Factor below 0 (0.01). */
    readonly slope = 0.01,
  ) {
    super()
  }
  /** Elementwise, any shape. */
  forward(x: Tensor): Tensor {
    return x.leakyRelu(this.slope)
  }
}
/** x above 0, alpha (exp(x) − 1) below (Clevert et al. 2016). */
export class ELU extends Module {
  constructor(
    /** The least value is −alpha (1). */
    readonly alpha = 1,
  ) {
    super()
  }
  /** Elementwise, any shape. */
  forward(x: Tensor): Tensor {
    return x.elu(this.alpha)
  }
}
/** log(1 + exp(x)). */
export class Softplus extends Module {
  /** Elementwise, any shape. */
  forward(x: Tensor): Tensor {
    return x.softplus()
  }
}
/** min(max(x, 0), 6). */
export class ReLU6 extends Module {
  /** Elementwise, any shape. */
  forward(x: Tensor): Tensor {
    return x.relu6()
  }
}
/** x above 0, below it times a slope that is learnt, one for all channels or for each of the last axis (He et al. 2015). */
export class PReLU extends Module {
  /** Slopes, [channels]. */
  readonly weight: Parameter

  constructor(channels = 1, options: { slope?: number } = {}) {
    super()
    expectIntegers('PReLU', { channels })
    expectOptions('PReLU', options, ['slope'])
    this.weight = new Parameter(full([channels], options.slope ?? 0.25))
  }
  /** [..., channels] to the same. */
  forward(x: Tensor): Tensor {
    return tidy(() => x.relu().sub(x.neg().relu().mul(this.weight)))
  }
}
/** x tanh(log(1 + exp(x))) (Misra 2019). */
export class Mish extends Module {
  /** Elementwise, any shape. */
  forward(x: Tensor): Tensor {
    return tidy(() => x.mul(x.softplus().tanh()))
  }
}
/** min(max(x + 3, 0), 6) / 6, nearly a sigmoid (Howard et al. 2019). */
export class Hardsigmoid extends Module {
  /** Elementwise, any shape. */
  forward(x: Tensor): Tensor {
    return tidy(() => x.add(3).relu6().div(6))
  }
}
/** x times that, nearly SiLU (Howard et al. 2019). */
export class Hardswish extends Module {
  /** Elementwise, any shape. */
  forward(x: Tensor): Tensor {
    return tidy(() => x.mul(x.add(3).relu6().div(6)))
  }
}
/** One half of an axis, the last by default, times the sigmoid of the other (Dauphin et al. 2017). */
export class GLU extends Module {
  constructor(
    /** Negative ones count from the end (-1). */
    readonly axis = -1,
  ) {
    super()
  }
  /** Any shape to half of it. */
  forward(x: Tensor): Tensor {
    const size = x.shape.at(this.axis)
    if (size === undefined || size % 2)
      fail('AUX_SHAPE_MISMATCH', `GLU: expected an even size of axis ${this.axis}, got shape ${showShape(x.shape)}`)
    return tidy(() => {
      const [value, gate] = x.split(size / 2, this.axis)
      return value.mul(gate.sigmoid())
    })
  }
}
/** Logarithm of the softmax over an axis, the last by default. */
export class LogSoftmax extends Module {
  constructor(
    /** Negative ones count from the end (-1). */
    readonly axis = -1,
  ) {
    super()
  }
  /** Any shape to the same. */
  forward(x: Tensor): Tensor {
    return x.logSoftmax(this.axis)
  }
}
/** Softmax over an axis, the last by default. */
export class Softmax extends Module {
  constructor(
    /** Negative ones count from the end (-1). */
    readonly axis = -1,
  ) {
    super()
  }
  /** Any shape to the same. */
  forward(x: Tensor): Tensor {
    return x.softmax(this.axis)
  }
}
/** A multiple of ELU that keeps activations near mean 0 and variance 1 (Klambauer et al. 2017). */
export class SELU extends Module {
  /** Elementwise, any shape. */
  forward(x: Tensor): Tensor {
    return tidy(() => x.elu(seluAlpha).mul(seluScale))
  }
}
/** x above 0, alpha (exp(x / alpha) − 1) below: an ELU with a continuous slope (Barron 2017). */
export class CELU extends Module {
  constructor(
    /** The least value is −alpha (1). */
    readonly alpha = 1,
  ) {
    super()
    if (!(alpha > 0)) fail('AUX_INVALID_ARGUMENT', `CELU: expected alpha > 0, got ${alpha}`)
  }
  /** Elementwise, any shape. */
  forward(x: Tensor): Tensor {
    return tidy(() => x.div(this.alpha).elu().mul(this.alpha))
  }
}
/** x / (1 + |x|). */
export class Softsign extends Module {
  /** Elementwise, any shape. */
  forward(x: Tensor): Tensor {
    return tidy(() => x.div(x.abs().add(1)))
  }
}
/** min(max(x, low), high). */
export class Hardtanh extends Module {
  constructor(
    /** Least value (-1). */
    readonly low = -1,
    /** Largest value (1). */
    readonly high = 1,
  ) {
    super()
    if (!(low < high)) fail('AUX_INVALID_ARGUMENT', `Hardtanh: expected low < high, got ${low} and ${high}`)
  }
  /** Elementwise, any shape. */
  forward(x: Tensor): Tensor {
    return x.hardtanh(this.low, this.high)
  }
}
/** x above the threshold, a value elsewhere. */
export class Threshold extends Module {
  constructor(
    /** What x must exceed. */
    readonly threshold: number,
    /** What stands for the rest. */
    readonly value: number,
  ) {
    super()
    if (!Number.isFinite(threshold) || !Number.isFinite(value))
      fail('AUX_INVALID_ARGUMENT', `Threshold: expected two numbers, got ${threshold} and ${value}`)
  }
  /** Elementwise, any shape. */
  forward(x: Tensor): Tensor {
    return tidy(() => where(x.gt(this.threshold), x, this.value))
  }
}

function expectWidth(name: string, width: number): void {
  if (!(width >= 0)) fail('AUX_INVALID_ARGUMENT', `${name}: expected a width >= 0, got ${width}`)
}

/** x nearer to 0 by the width, and 0 within it. */
export class Softshrink extends Module {
  constructor(
    /** How far around 0 nothing passes (0.5). */
    readonly width = 0.5,
  ) {
    super()
    expectWidth('Softshrink', width)
  }
  /** Elementwise, any shape. */
  forward(x: Tensor): Tensor {
    return tidy(() => x.sub(x.clamp(-this.width, this.width)))
  }
}
/** x, and 0 within the width. */
export class Hardshrink extends Module {
  constructor(
    /** How far around 0 nothing passes (0.5). */
    readonly width = 0.5,
  ) {
    super()
    expectWidth('Hardshrink', width)
  }
  /** Elementwise, any shape. */
  forward(x: Tensor): Tensor {
    return tidy(() => where(x.abs().gt(this.width), x, 0))
  }
}
/** x − tanh(x). */
export class Tanhshrink extends Module {
  /** Elementwise, any shape. */
  forward(x: Tensor): Tensor {
    return tidy(() => x.sub(x.tanh()))
  }
}
/** Logarithm of the sigmoid. */
export class LogSigmoid extends Module {
  /** Elementwise, any shape. */
  forward(x: Tensor): Tensor {
    return tidy(() => x.neg().softplus().neg())
  }
}
/** What it is given. */
export class Identity extends Module {
  /** Any shape to the same. */
  forward(x: Tensor): Tensor {
    return x
  }
}
/** Axes from 1 on made one. */
export class Flatten extends Module {
  /** [N, ...] to [N, product of the rest]. */
  forward(x: Tensor): Tensor {
    return x.flatten(1)
  }
}
/** An axis made several: the opposite of `Flatten`. */
export class Unflatten extends Module {
  constructor(
    /** The axis; negative ones count from the end. */
    readonly axis: number,
    /** What becomes of it; one size may be -1. */
    readonly sizes: readonly number[],
  ) {
    super()
  }
  /** [..., product of the sizes, ...] to [..., ...sizes, ...]. */
  forward(x: Tensor): Tensor {
    const at = resolveAxis('Unflatten', this.axis, x.rank)
    return x.reshape([...x.shape.slice(0, at), ...this.sizes, ...x.shape.slice(at + 1)])
  }
}
