import type { Tensor } from '../tensor/tensor'
import { Module } from './module'

export class ReLU extends Module {
  forward(x: Tensor): Tensor {
    return x.relu()
  }
}
export class GELU extends Module {
  forward(x: Tensor): Tensor {
    return x.gelu()
  }
}
export class SiLU extends Module {
  forward(x: Tensor): Tensor {
    return x.silu()
  }
}
export class Tanh extends Module {
  forward(x: Tensor): Tensor {
    return x.tanh()
  }
}
export class Sigmoid extends Module {
  forward(x: Tensor): Tensor {
    return x.sigmoid()
  }
}
/** Axes from 1 on made one. */
export class Flatten extends Module {
  forward(x: Tensor): Tensor {
    return x.flatten(1)
  }
}
