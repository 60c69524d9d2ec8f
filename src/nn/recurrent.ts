import { describe, expectIntegers, expectOptions, fail, picked } from '../errors'
import { expectShape, expectTensor } from '../graph/op'
import { arange, concat, dropout, stack, where, zeros } from '../ops'
import { constant } from '../ops/constant'
import { expectIndices } from '../ops/indices'
import { checkDropout } from '../ops/random'
import { showShape } from '../tensor/shape'
import type { Tensor } from '../tensor/tensor'
import { tidy } from '../tensor/tidy'
import { Linear } from './linear'
import { Module } from './module'

/** One step of a recurrent layer: what the input and the state make of the state. Both projections have the gates' width. */
abstract class Cell<S extends Tensor[]> extends Module {
  /** Projection of the input to the gates. */
  readonly ih: Linear
  /** Projection of the hidden state to the gates. */
  readonly hh: Linear
  /** Width of the gates, and of what the cell remembers. */
  readonly hidden: number
  /** Width of the hidden state, which is also the output. */
  readonly outputs: number
  /** Tensors of a state. */
  abstract readonly states: number

  constructor(inputs: number, hidden: number, gates: number, bias: boolean, outputs = hidden) {
    super()
    expectIntegers(new.target.name, { inputs, hidden })
    this.hidden = hidden
    this.outputs = outputs
    const projection = (width: number): Linear => {
      const made = new Linear(width, gates * hidden, { bias })
      // As PyTorch: all within ±1/√hidden.
      const scale = Math.sqrt(width / hidden)
      if (scale !== 1) for (const t of [made.weight, made.bias]) t?.assign(t.dataSync().map((v) => v * scale))
      return made
    }
    this.ih = projection(inputs)
    this.hh = projection(outputs)
  }

  /** The next state from the projected input [N, gates · hidden]. */
  abstract next(projected: Tensor, state: readonly Tensor[]): S

  /** The state to begin N rows with: zeros unless given. */
  start(rows: number, state?: readonly Tensor[]): readonly Tensor[] {
    if (state === undefined)
      return Array.from({ length: this.states }, (_, i) => constant(zeros, [rows, i ? this.hidden : this.outputs]))
    const { name } = this.constructor
    if (!Array.isArray(state) || state.length !== this.states)
      fail(
        'AUX_INVALID_ARGUMENT',
        `${name}: expected the state as ${this.states > 1 ? '[h, c]' : '[h]'}, got ${describe(state)}`,
      )
    for (const t of state as Tensor[]) expectTensor(name, t)
    return state
  }

  /** x [N, inputs] and the state, [h, c] of LSTM, [h] of the others (h [N, outputs], c [N, hidden]), to the next state. */
  forward(x: Tensor, state?: readonly Tensor[]): S {
    return tidy(() => this.next(this.ih.forward(x), this.start(x.shape[0], state)))
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
  /** Whether each layer has a second cell that reads from the end to the beginning (false). */
  bidirectional?: boolean
}

/** Options of `LSTMCell`. */
export interface LSTMCellOptions {
  /** Whether the projections add biases (true). */
  bias?: boolean
  /** Width to which the hidden state is projected, less than `hidden` (no projection). */
  projSize?: number
}

/**
 * Long short-term memory, one step (Hochreiter & Schmidhuber 1997): gates i, f, g, o in this order, as PyTorch's. With
 * `projSize` the hidden state is a projection of what it was (Sak et al. 2014), and h has that width.
 */
export class LSTMCell extends Cell<[Tensor, Tensor]> {
  /** Hidden state and memory. */
  readonly states = 2
  /** Projection of the hidden state; PyTorch's `weight_hr`. */
  readonly hr: Linear | undefined

  constructor(inputs: number, hidden: number, options: LSTMCellOptions = {}) {
    expectOptions('LSTMCell', options, ['bias', 'projSize'])
    const { bias = true, projSize } = options
    if (projSize !== undefined) expectIntegers('LSTMCell', { projSize }, 1, hidden - 1)
    super(inputs, hidden, 4, bias, projSize)
    this.hr = projSize === undefined ? undefined : new Linear(hidden, projSize, { bias: false })
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
    const out = gates
      .narrow(1, 3 * n, n)
      .sigmoid()
      .mul(memory.tanh())
    return [this.hr?.forward(out) ?? out, memory]
  }
}

/** Gated recurrent unit, one step (Cho et al. 2014): gates r, z, n in this order, the reset behind the product, as PyTorch's. */
export class GRUCell extends Cell<[Tensor]> {
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
}

/** Options of `RNNCell`. */
export interface RNNCellOptions {
  /** Whether the projections add biases (true). */
  bias?: boolean
  /** What becomes of the sum of both projections ('tanh'). */
  nonlinearity?: 'tanh' | 'relu'
}

/** The plain recurrent cell, one step (Elman 1990): the next state is tanh, or relu, of both projections' sum. */
export class RNNCell extends Cell<[Tensor]> {
  /** The hidden state alone. */
  readonly states = 1
  readonly #nonlinearity: 'tanh' | 'relu'

  constructor(inputs: number, hidden: number, options: RNNCellOptions = {}) {
    expectOptions(new.target.name, options, ['bias', 'nonlinearity'])
    super(inputs, hidden, 1, options.bias ?? true)
    this.#nonlinearity = options.nonlinearity ?? 'tanh'
    if (!['tanh', 'relu'].includes(this.#nonlinearity))
      fail(
        'AUX_INVALID_ARGUMENT',
        `${new.target.name}: expected nonlinearity 'tanh' or 'relu', got ${String(options.nonlinearity)}`,
      )
  }

  /** From [N, hidden] and [h] to the next [h]. */
  next(projected: Tensor, [h]: readonly Tensor[]): [Tensor] {
    return [projected.add(this.hh.forward(h))[this.#nonlinearity]()]
  }
}

/** Cells over the positions of a sequence. The plan has a part for each position: one for each length. */
abstract class Recurrent<C extends LSTMCell | GRUCell | RNNCell> extends Module {
  /**
   * One a layer, or two, the second one reading backwards; `cells.0.ih.weight` is PyTorch's `weight_ih_l0`, and where
   * there are two, `cells.1.ih.weight` is `weight_ih_l0_reverse`.
   */
  readonly cells: C[]
  readonly #directions: 1 | 2
  readonly #dropout: number

  constructor(
    inputs: number,
    hidden: number,
    make: (inputs: number) => C,
    options: RecurrentOptions,
    own: readonly string[] = [],
  ) {
    super()
    expectOptions(new.target.name, options, ['layers', 'bias', 'dropout', 'bidirectional', ...own])
    const { layers = 1, dropout: p = 0, bidirectional = false } = options
    expectIntegers(new.target.name, { inputs, hidden, layers })
    checkDropout(`${new.target.name} dropout`, p)
    const directions = bidirectional ? 2 : 1
    this.cells = []
    for (let i = 0; i < layers * directions; i++)
      this.cells.push(make(i < directions ? inputs : this.cells[0].outputs * directions))
    this.#directions = directions
    this.#dropout = p
  }

  /**
   * x [N, T, inputs] to the hidden states of the last layer at all positions, and the state of each cell after its last.
   * @param states the state of each cell to begin with, as an earlier call gave them; zeros unless given.
   * @param lengths positions of each row that count, i32 [N], T unless given: behind them output is 0, and no state reads
   * them, as of PyTorch's packed sequences. Backward cells begin with the last position that counts.
   */
  forward(
    x: Tensor,
    states?: readonly (readonly Tensor[])[],
    lengths?: Tensor,
  ): {
    /** [N, T, hidden]; of two directions, side by side, [N, T, 2 · hidden]. */
    output: Tensor
    /** Of each cell: [h, c] of LSTM, [h] of GRU and RNN, each [N, hidden]. */
    states: Tensor[][]
  } {
    const { name } = this.constructor
    if (x.rank !== 3 || x.shape[1] < 1)
      fail('AUX_SHAPE_MISMATCH', `${name}: expected input [N, T, inputs], got ${showShape(x.shape)}`)
    if (states !== undefined && !Array.isArray(states))
      fail('AUX_INVALID_ARGUMENT', `${name}: expected an array with the state of each cell, got ${describe(states)}`)
    if (states && states.length !== this.cells.length)
      fail('AUX_SHAPE_MISMATCH', `${name}: expected states of ${this.cells.length} cells, got ${states.length}`)
    return tidy(() => this.#through(x, states, lengths))
  }

  #through(
    x: Tensor,
    states?: readonly (readonly Tensor[])[],
    lengths?: Tensor,
  ): { output: Tensor; states: Tensor[][] } {
    const [rows, steps] = x.shape
    const last: Tensor[][] = []
    const counts = lengths && this.#counts(lengths, rows, steps)
    let y = x
    for (let layer = 0; layer < this.cells.length; layer += this.#directions) {
      if (layer) y = dropout(y, this.#dropout, this.training)
      const sides = this.cells.slice(layer, layer + this.#directions).map((cell, side) => {
        const start = cell.start(rows, states?.[layer + side])
        return over(cell, y, start, { backward: side === 1, counts })
      })
      last.push(...sides.map(({ state }) => state))
      const outputs = sides.map(({ output }) => output)
      y = outputs.length > 1 ? concat(outputs, 2) : outputs[0]
    }
    return { output: counts ? where(counts, y, 0) : y, states: last }
  }

  /** Whether a position counts, bool [N, T, 1]. */
  #counts(lengths: Tensor, rows: number, steps: number): Tensor {
    const { name } = this.constructor
    const own = expectIndices(name, 'lengths', lengths)
    expectShape(name, 'lengths', own, [rows])
    return constant(arange, 0, steps, 1, 'i32').unsqueeze(0).lt(own.unsqueeze(1)).unsqueeze(2)
  }
}

/** One cell over all positions of x [N, T, inputs]; where `counts` is false the state stays as it is. */
function over(
  cell: LSTMCell | GRUCell | RNNCell,
  x: Tensor,
  start: readonly Tensor[],
  { backward, counts }: { backward: boolean; counts?: Tensor },
): { output: Tensor; state: Tensor[] } {
  const projected = cell.ih.forward(x)
  const steps = x.shape[1]
  const hidden = new Array<Tensor>(steps)
  let state = [...start]
  for (let i = 0; i < steps; i++) {
    const t = backward ? steps - 1 - i : i
    const next = cell.next(projected.select(1, t), state)
    const here = counts?.select(1, t)
    state = here ? next.map((s, k) => where(here, s, state[k])) : next
    hidden[t] = state[0]
  }
  return { output: stack(hidden, 1), state }
}

/**
 * Long short-term memory over sequences (Hochreiter & Schmidhuber 1997): [N, T, inputs] to [N, T, hidden], or projSize in
 * the place of hidden.
 */
export class LSTM extends Recurrent<LSTMCell> {
  constructor(inputs: number, hidden: number, options: RecurrentOptions & LSTMCellOptions = {}) {
    const make = (n: number): LSTMCell => new LSTMCell(n, hidden, { bias: options.bias, projSize: options.projSize })
    super(inputs, hidden, make, options, ['projSize'])
  }
}

/** Gated recurrent units over sequences (Cho et al. 2014): [N, T, inputs] to [N, T, hidden]. */
export class GRU extends Recurrent<GRUCell> {
  constructor(inputs: number, hidden: number, options: RecurrentOptions = {}) {
    super(inputs, hidden, (n) => new GRUCell(n, hidden, { bias: options.bias }), options)
  }
}

/** The plain recurrent layer (Elman 1990): [N, T, inputs] to [N, T, hidden]. */
export class RNN extends Recurrent<RNNCell> {
  constructor(inputs: number, hidden: number, options: RecurrentOptions & RNNCellOptions = {}) {
    const own = picked(options, ['bias', 'nonlinearity'])
    super(inputs, hidden, (n) => new RNNCell(n, hidden, own), options, ['nonlinearity'])
  }
}
