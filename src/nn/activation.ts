import { expectIntegers, expectOptions, fail } from '../errors'
import { full, type GeluOptions } from '../ops'
import { showShape } from '../tensor/shape'
import type { Tensor } from '../tensor/tensor'
import { tidy } from '../tensor/tidy'
import { Module } from './module'
import { Parameter } from './parameter'

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
