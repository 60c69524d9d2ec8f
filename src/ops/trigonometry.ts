import { Tensor } from '../tensor/tensor'
import { tidy } from '../tensor/tidy'
import { atan2 } from './binary'

// Trigonometric and hyperbolic functions beyond sin, cos and tanh, of those and of atan2.

/** √(1 − x²), without cancellation at ±1; of two roots, so that its gradient there is infinite and not NaN. */
const leg = (x: Tensor): Tensor => x.neg().add(1).sqrt().mul(x.add(1).sqrt())

declare module '../tensor/tensor' {
  interface Tensor {
    /** Tangent, of radians. */
    tan(): Tensor
    /** The angle whose sine it is, in [−π/2, π/2]; NaN beyond ±1. */
    asin(): Tensor
    /** The angle whose cosine it is, in [0, π]; NaN beyond ±1. */
    acos(): Tensor
    /** The angle whose tangent it is, in [−π/2, π/2]. */
    atan(): Tensor
    /** Hyperbolic sine. */
    sinh(): Tensor
    /** Hyperbolic cosine. */
    cosh(): Tensor
    /** Inverse of `cosh`; NaN below 1. */
    acosh(): Tensor
    /** Inverse of `tanh`; NaN beyond ±1. */
    atanh(): Tensor
  }
}

const methods: Record<string, (x: Tensor) => Tensor> = {
  tan: (x) => x.sin().div(x.cos()),
  asin: (x) => atan2(x, leg(x)),
  acos: (x) => atan2(leg(x), x),
  atan: (x) => atan2(x, 1),
  // Of exp(x) − 1, which is precise near 0.
  sinh: (x) => x.expm1().sub(x.neg().expm1()).mul(0.5),
  cosh: (x) => x.exp().add(x.neg().exp()).mul(0.5),
  acosh: (x) => {
    const above = x.sub(1)
    return x.add(1).sqrt().mul(above.sqrt()).add(above).log1p()
  },
  atanh: (x) => x.log1p().sub(x.neg().log1p()).mul(0.5),
}
for (const [name, f] of Object.entries(methods))
  Object.defineProperty(Tensor.prototype, name, {
    value: function (this: Tensor) {
      return tidy(() => f(this))
    },
    writable: true,
  })
