import { expectIntegers, expectOptions, fail } from '../errors'
import { dropout, stack, zeros } from '../ops'
import { checkDropout } from '../ops/random'
import { showShape } from '../tensor/shape'
import type { Tensor } from '../tensor/tensor'
import { Linear } from './linear'
import { Module } from './module'

/** One step of a recurrent layer: what the input and the state make of the state. Both projections have the gates' width. */
abstract class Cell extends Module {
  /** Projection of the input to the gates. */
  readonly ih: Linear
  /** Projection of the hidden state to the gates. */
  readonly hh: Linear
  /** Width of the state. */
  readonly hidden: number
  /** Tensors of a state. */
  abstract readonly states: number

  constructor(inputs: number, hidden: number, gates: number, bias: boolean) {
    super()
    expectIntegers(new.target.name, { inputs, hidden })
    this.hidden = hidden
    // As PyTorch: all within ±1/√hidden.
    const [ih, hh] = [new Linear(inputs, gates * hidden, { bias }), new Linear(hidden, gates * hidden, { bias })]
    this.ih = ih
    this.hh = hh
    const scale = Math.sqrt(inputs / hidden)
    for (const t of [ih.weight, ih.bias]) t?.assign(t.dataSync().map((v) => v * scale))
  }

  /** The next state from the projected input [N, gates · hidden]. */
  abstract next(projected: Tensor, state: readonly Tensor[]): Tensor[]

  /** Zeros for each of N rows. */
  start(rows: number): Tensor[] {
    return Array.from({ length: this.states }, () => zeros([rows, this.hidden]))
  }
}

/** Options of recurrent layers. */
export interface RecurrentOptions {
  /** Layers, each on the outputs of the one before (1). */
  layers?: number
  /** Whether the projections add biases (true). */
  bias?: boolean
  /** Probability with which an output between two layers is dropped in training (0). */
  dropout?: number
}

/**
 * Long short-term memory, one step (Hochreiter & Schmidhuber 1997): gates i, f, g, o in this order, as PyTorch's.
 */
export class LSTMCell extends Cell {
  /** Hidden state and memory. */
  readonly states = 2

  constructor(inputs: number, hidden: number, options: { bias?: boolean } = {}) {
    expectOptions('LSTMCell', options, ['bias'])
    super(inputs, hidden, 4, options.bias ?? true)
  }

  /** From [N, 4 · hidden] and [h, c] to the next [h, c]. */
  next(projected: Tensor, [h, c]: readonly Tensor[]): [Tensor, Tensor] {
    const n = this.hidden
    const gates = projected.add(this.hh.forward(h))
    const [i, f] = gates
      .narrow(1, 0, 2 * n)
      .sigmoid()
      .split(n, 1)
    const memory = f.mul(c).add(i.mul(gates.narrow(1, 2 * n, n).tanh()))
    return [
      gates
        .narrow(1, 3 * n, n)
        .sigmoid()
        .mul(memory.tanh()),
      memory,
    ]
  }

  /** x [N, inputs] and the state [h, c], each [N, hidden], to the next state. */
  forward(x: Tensor, state: readonly Tensor[] = this.start(x.shape[0])): [Tensor, Tensor] {
    return this.next(this.ih.forward(x), state)
  }
}

/** Gated recurrent unit, one step (Cho et al. 2014): gates r, z, n in this order, the reset behind the product, as PyTorch's. */
export class GRUCell extends Cell {
  /** The hidden state alone. */
  readonly states = 1

  constructor(inputs: number, hidden: number, options: { bias?: boolean } = {}) {
    expectOptions('GRUCell', options, ['bias'])
    super(inputs, hidden, 3, options.bias ?? true)
  }

  /** From [N, 3 · hidden] and [h] to the next [h]. */
  next(projected: Tensor, [h]: readonly Tensor[]): [Tensor] {
    const n = this.hidden
    const own = this.hh.forward(h)
    const [r, z] = projected
      .narrow(1, 0, 2 * n)
      .add(own.narrow(1, 0, 2 * n))
      .sigmoid()
      .split(n, 1)
    const candidate = projected
      .narrow(1, 2 * n, n)
      .add(r.mul(own.narrow(1, 2 * n, n)))
      .tanh()
    return [candidate.add(z.mul(h.sub(candidate)))]
  }

  /** x [N, inputs] and the state [h], [N, hidden], to the next state. */
  forward(x: Tensor, state: readonly Tensor[] = this.start(x.shape[0])): [Tensor] {
    return this.next(this.ih.forward(x), state)
  }
}

/** Cells over the positions of a sequence. The plan has a part for each position: one for each length. */
abstract class Recurrent<C extends LSTMCell | GRUCell> extends Module {
  /** One a layer; `cells.0.ih.weight` is PyTorch's `weight_ih_l0`. */
  readonly cells: C[]
  readonly #dropout: number

  constructor(inputs: number, hidden: number, make: (inputs: number) => C, options: RecurrentOptions) {
    super()
    const { layers = 1, dropout: p = 0 } = options
    expectIntegers(new.target.name, { inputs, hidden, layers })
    expectOptions(new.target.name, options, ['layers', 'bias', 'dropout'])
    checkDropout(`${new.target.name} dropout`, p)
    this.cells = Array.from({ length: layers }, (_, i) => make(i ? hidden : inputs))
    this.#dropout = p
  }

  /**
   * x [N, T, inputs] to the hidden states of the last layer at all positions, and the state of each layer after the last.
   * @param states the state of each layer to begin with, as an earlier call gave them; zeros unless given.
   */
  forward(
    x: Tensor,
    states?: readonly (readonly Tensor[])[],
  ): {
    /** [N, T, hidden]. */
    output: Tensor
    /** Of each layer: [h, c] of LSTM, [h] of GRU, each [N, hidden]. */
    states: Tensor[][]
  } {
    if (x.rank !== 3 || x.shape[1] < 1)
      fail('AUX_SHAPE_MISMATCH', `${this.constructor.name}: expected input [N, T, inputs], got ${showShape(x.shape)}`)
    const last: Tensor[][] = []
    let y = x
    this.cells.forEach((cell, layer) => {
      if (layer) y = dropout(y, this.#dropout, this.training)
      const projected = cell.ih.forward(y)
      let state: readonly Tensor[] = states?.[layer] ?? cell.start(x.shape[0])
      const hidden: Tensor[] = []
      for (let t = 0; t < x.shape[1]; t++) {
        state = cell.next(projected.select(1, t), state)
        hidden.push(state[0])
      }
      last.push([...state])
      y = stack(hidden, 1)
    })
    return { output: y, states: last }
  }
}

/** Long short-term memory over sequences (Hochreiter & Schmidhuber 1997): [N, T, inputs] to [N, T, hidden]. */
export class LSTM extends Recurrent<LSTMCell> {
  constructor(inputs: number, hidden: number, options: RecurrentOptions = {}) {
    super(inputs, hidden, (n) => new LSTMCell(n, hidden, { bias: options.bias }), options)
  }
}

/** Gated recurrent units over sequences (Cho et al. 2014): [N, T, inputs] to [N, T, hidden]. */
export class GRU extends Recurrent<GRUCell> {
  constructor(inputs: number, hidden: number, options: RecurrentOptions = {}) {
    super(inputs, hidden, (n) => new GRUCell(n, hidden, { bias: options.bias }), options)
  }
}
