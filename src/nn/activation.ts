import { expectOptions } from '../errors'
import type { GeluOptions } from '../ops'
import type { Tensor } from '../tensor/tensor'
import { Module } from './module'

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
