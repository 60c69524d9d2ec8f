import type { Tensor } from '../tensor/tensor'
import { Module } from './module'

/** max(x, 0). */
export class ReLU extends Module {
  /** Elementwise, any shape. */
  forward(x: Tensor): Tensor {
    return x.relu()
  }
}
/** x Φ(x) (Hendrycks & Gimpel 2016), with the error function. */
export class GELU extends Module {
  /** Elementwise, any shape. */
  forward(x: Tensor): Tensor {
    return x.gelu()
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
/** Axes from 1 on made one. */
export class Flatten extends Module {
  /** [N, ...] to [N, product of the rest]. */
  forward(x: Tensor): Tensor {
    return x.flatten(1)
  }
}
