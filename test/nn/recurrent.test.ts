import { asa, checkpoint, compile, concat, nn, optim, quantized, stack, tensor, zeros, type Tensor } from '../../src'
import { pytorch, wave } from '../support/pytorch'
import { gradientsOf } from '../support/record'
import { withCode } from '../support/refusals'
import { generator } from '../support/run'

const { recurrent } = pytorch<{
  recurrent: Record<string, { output: number[]; states: number[]; x: number[]; parameters: number[] }>
}>()

const [rows, length, inputs, hidden, layers] = [2, 3, 2, 3, 2]
const random = generator(1)
const numbers = (n: number) => Array.from({ length: n }, () => Math.fround(2 * random() - 1))
const x = numbers(rows * length * inputs)
const weights = numbers(rows * length * hidden)
const sigmoid = (v: number): number => 1 / (1 + Math.exp(-v))

type State = Map<string, Float64Array>

/** The hidden states of a network at all positions, in doubles, one number at a time. */
function reference(kind: 'LSTM' | 'GRU', state: State): number[] {
  const project = (layer: number, part: string, row: number, v: readonly number[]): number => {
    const w = state.get(`cells.${layer}.${part}.weight`)!
    return v.reduce((sum, a, i) => sum + a * w[row * v.length + i], state.get(`cells.${layer}.${part}.bias`)![row])
  }
  const outputs: number[] = []
  for (let n = 0; n < rows; n++) {
    const h = Array.from({ length: layers }, () => new Array<number>(hidden).fill(0))
    const c = Array.from({ length: layers }, () => new Array<number>(hidden).fill(0))
    for (let t = 0; t < length; t++) {
      let input = x.slice((n * length + t) * inputs, (n * length + t + 1) * inputs)
      for (let l = 0; l < layers; l++) {
        const before = h[l]
        const [a, b] = [input, before]
        const ih = (gate: number, k: number): number => project(l, 'ih', gate * hidden + k, a)
        const hh = (gate: number, k: number): number => project(l, 'hh', gate * hidden + k, b)
        h[l] = before.map((_, k) => {
          if (kind === 'LSTM') {
            const gate = (g: number): number => ih(g, k) + hh(g, k)
            c[l][k] = sigmoid(gate(1)) * c[l][k] + sigmoid(gate(0)) * Math.tanh(gate(2))
            return sigmoid(gate(3)) * Math.tanh(c[l][k])
          }
          const z = sigmoid(ih(1, k) + hh(1, k))
          const candidate = Math.tanh(ih(2, k) + sigmoid(ih(0, k) + hh(0, k)) * hh(2, k))
          return (1 - z) * candidate + z * before[k]
        })
        input = h[l]
      }
      outputs.push(...input)
    }
  }
  return outputs
}

describe.each([
  ['LSTM', nn.LSTM],
  ['GRU', nn.GRU],
] as const)('%s', (kind, Layer) => {
  const batch = { x: { data: Float32Array.from(x), shape: [rows, length, inputs] } }
  const weighted = (y: Tensor) => y.mul(tensor(Float32Array.from(weights), [rows, length, hidden])).sum()

  test('values and gradients of all its parameters', async () => {
    const model = new Layer(inputs, hidden, { layers })
    const state: State = new Map([...model.state()].map(([name, t]) => [name, Float64Array.from(t.dataSync())]))
    const forward = compile({ model, forward: ({ x }) => model.forward(x).output })
    const { data, shape } = await forward.run(batch)
    expect(shape).toEqual([rows, length, hidden])
    reference(kind, state).forEach((v, i) => expect(data[i]).toBeCloseTo(v, 6))

    const optimizer = new optim.SGD({ lr: 1 })
    const step = compile({ model, loss: ({ x }) => weighted(model.forward(x).output), optimizer })
    await step.run(batch)
    const loss = (): number => reference(kind, state).reduce((sum, v, i) => sum + v * weights[i], 0)
    for (const [name, t] of model.state()) {
      const values = state.get(name)!
      const after = t.dataSync()
      values.forEach((v, i) => {
        values[i] = v + 1e-5
        const up = loss()
        values[i] = v - 1e-5
        const slope = (up - loss()) / 2e-5
        values[i] = v
        expect([name, i, v - after[i]]).toEqual([name, i, expect.closeTo(slope, 4)])
      })
    }
    step.close()
  })

  test('a sequence in two parts is the sequence', async () => {
    const model = new Layer(inputs, hidden, { layers })
    const whole = compile({ model, forward: ({ x }) => model.forward(x).output })
    const parts = compile({
      model,
      forward: ({ x }) => {
        const first = model.forward(x.slice(null, [0, 1]))
        const second = model.forward(x.slice(null, [1]), first.states)
        return { first: first.output, second: second.output, h: second.states[1][0] }
      },
    })
    const all = (await whole.run(batch)).data
    const { first, second, h } = await parts.run(batch)
    for (let n = 0; n < rows; n++) {
      const joined = [
        ...first.data.subarray(n * hidden, (n + 1) * hidden),
        ...second.data.subarray(n * 2 * hidden, (n + 1) * 2 * hidden),
      ]
      joined.forEach((v, i) => expect(v).toBeCloseTo(all[n * length * hidden + i], 6))
      expect([...h.data.subarray(n * hidden, (n + 1) * hidden)]).toEqual([
        ...second.data.subarray((2 * n + 1) * hidden, (2 * n + 2) * hidden),
      ])
    }
  })

  test('policies: checkpointing changes nothing, others keep less', async () => {
    const kept = async (memory: object | undefined) => {
      const model = new Layer(8, 16)
      for (const [, p] of model.namedParameters()) p.assign(p.dataSync().map((_, i) => Math.sin(i)))
      const step = compile({
        model,
        loss: ({ x }) => model.forward(x).output.square().mean(),
        optimizer: new optim.SGD({ lr: 0.1 }),
        memory: memory as never,
      })
      const x = { data: Float32Array.from({ length: 64 * 6 * 8 }, (_, i) => Math.cos(i)), shape: [64, 6, 8] }
      await step.run({ x })
      const bytes = step.plan({ x: x.shape }).bytes.kept
      step.close()
      return { bytes, state: [...model.state()].map(([, t]) => [...t.dataSync()]) }
    }
    const plain = await kept(undefined)
    expect((await kept({ 'cells.0': checkpoint({ recompute: 'cheap' }) })).state).toEqual(plain.state)
    expect((await kept(quantized())).bytes).toBeLessThan(plain.bytes)
    // The hidden states, which ASA would stand in for, are kept anyway.
    expect((await kept(asa())).bytes).toBeLessThanOrEqual(plain.bytes)
  })

  test('what cannot be', () => {
    const model = new Layer(inputs, hidden)
    expect(() => model.forward(zeros([2, inputs]))).toThrow(/\[N, T, inputs\], got \[2, 2\]/)
    expect(() => model.forward(zeros([2, 0, inputs]))).toThrow(/got \[2, 0, 2\]/)
    expect(() => new Layer(inputs, 0)).toThrow(new RegExp(`${kind}: expected hidden`))
    expect(() => new Layer(inputs, 2, { dropout: 2 })).toThrow(/dropout/)
  })
})

test('one step of a cell', () => {
  const lstm = new nn.LSTMCell(2, 3)
  const [h, c] = lstm.forward(tensor([[1, -1]]))
  expect([h.shape, c.shape]).toEqual([
    [1, 3],
    [1, 3],
  ])
  const rnn = new nn.RNNCell(2, 3)
  const sum = rnn.ih.forward(tensor([[1, -1]])).add(rnn.hh.bias!)
  near(rnn.forward(tensor([[1, -1]]))[0].dataSync(), [...sum.dataSync()].map(Math.tanh), 1e-6)
  expect(new nn.LSTMCell(2, 3, { projSize: 1 }).start(4).map((t) => t.shape)).toEqual([
    [4, 1],
    [4, 3],
  ])
  expect(() => new nn.LSTMCell(2, 3, { projSize: 3 })).toThrow(/^LSTMCell: expected projSize .*got 3/)
  expect(() => new nn.GRU(2, 3, { projSize: 2 } as never)).toThrow(/^GRU: there is no option projSize/)
  expect(() => new nn.RNNCell(2, 3, { nonlinearity: 'gelu' as never })).toThrow(/'tanh' or 'relu', got gelu/)
  const gru = new nn.GRUCell(2, 3, { bias: false })
  const [first] = gru.forward(tensor([[1, -1]]))
  expect(gru.forward(tensor([[1, -1]]), [first])[0].dataSync()).not.toEqual(first.dataSync())
})

test('gradients of the positions are put together: the work grows with their number, not with its square', () => {
  const work = (length: number): number => {
    const layer = new nn.GRU(3, 4, { layers: 2, bidirectional: true })
    const step = compile({
      model: layer,
      loss: ({ x, lengths }) => layer.forward(x, undefined, lengths).output.mean(),
      optimizer: new optim.SGD({ lr: 0.1 }),
    })
    const plan = step.plan({ x: [2, length, 3], lengths: [2] })
    const written = plan.ops.reduce((bytes, op) => bytes + op.bytes, 0)
    expect(plan.ops.filter((op) => op.kernel === 'place')).toEqual([])
    step.close()
    return written
  }
  expect(work(24) / work(6)).toBeLessThan(4.5)
})

/** The parameters of all cells in the order in which PyTorch has them. */
const partsOf = ({ cells }: nn.LSTM | nn.GRU | nn.RNN): string[] =>
  cells.flatMap((cell, c) => {
    const names = ['ih.weight', 'hh.weight', 'ih.bias', 'hh.bias', ...('hr' in cell && cell.hr ? ['hr.weight'] : [])]
    return names.map((name) => `cells.${c}.${name}`)
  })

/** Two layers in both directions over rows of 4, 2 and 1 positions, with what each begins with. */
class Packed extends nn.Module {
  readonly x = new nn.Parameter(wave([3, 4, 2], 0.1))
  constructor(readonly layer: nn.LSTM | nn.GRU | nn.RNN) {
    super()
    const state = layer.state()
    partsOf(layer).forEach((name, k) => state.get(name)!.assign(wave([...state.get(name)!.shape], k, 0.5)))
  }
  forward(lengths: Tensor) {
    const starts = this.layer.cells[0].start(3).map(({ shape }, k) => wave([4, ...shape], 0.2 + k, 0.5))
    const states = this.layer.cells.map((_, c) => starts.map((s) => s.select(0, c)))
    const { output, states: last } = this.layer.forward(this.x, states, lengths)
    return { output, states: stack(last.map((s) => concat(s.map((t) => t.flatten())))) }
  }
}

const near = (got: ArrayLike<number>, expected: number[], tolerance = 2e-6): void => {
  expect(got.length).toBe(expected.length)
  expected.forEach((v, i) => expect(Math.abs(got[i] - v)).toBeLessThan(tolerance * (1 + Math.abs(v))))
}

describe.each([
  ['LSTM', () => new nn.LSTM(2, 3, { layers: 2, bidirectional: true })],
  ['GRU', () => new nn.GRU(2, 3, { layers: 2, bidirectional: true })],
  ['RNN', () => new nn.RNN(2, 3, { layers: 2, bidirectional: true, nonlinearity: 'relu' })],
  ['LSTM, projected', () => new nn.LSTM(2, 3, { layers: 2, bidirectional: true, projSize: 2 })],
] as const)('%s of packed rows, both directions', (kind, make) => {
  const lengths = { data: Int32Array.of(4, 2, 1), shape: [3] }
  const loss = (model: Packed) => (batch: Record<string, Tensor>) => {
    const { output, states } = model.forward(batch.lengths)
    const total = output.mul(wave([...output.shape], 0.4)).sum()
    return { loss: total.add(states.mul(wave([...states.shape], 0.6)).sum()), output, states }
  }

  test("values, states and gradients are PyTorch's, under policies too", async () => {
    for (const memory of [undefined, checkpoint(), { 'layer.cells.*': checkpoint({ recompute: 'cheap' }) }] as const) {
      const model = new Packed(make())
      const { result, gradients, plan, measured } = await gradientsOf(model, loss(model), { lengths }, memory)
      near(result.output.data, recurrent[kind].output)
      near(result.states.data, recurrent[kind].states)
      near(gradients.x, recurrent[kind].x)
      const own = partsOf(model.layer).flatMap((name) => [...gradients[`layer.${name}`]])
      near(own, recurrent[kind].parameters, 5e-6)
      expect(measured).toBe(plan.arenaBytes)
    }
  })

  test('what is behind a row changes nothing of it', async () => {
    const model = new Packed(make())
    const whole = await gradientsOf(model, loss(model), { lengths })
    const x = model.x.dataSync()
    for (let t = 1; t < 4; t++) for (const i of [0, 1]) x[(2 * 4 + t) * 2 + i] = 9
    model.x.assign(x)
    const other = await gradientsOf(model, loss(model), { lengths })
    expect(other.result.output.data).toEqual(whole.result.output.data)
    expect(other.result.states.data).toEqual(whole.result.states.data)
    expect(other.gradients.x).toEqual(whole.gradients.x)
  })

  test('what cannot be', () => {
    const { layer } = new Packed(make())
    const x = zeros([3, 4, 2])
    const state = layer.cells[0].start(3)
    expect(() => layer.forward(x, [state])).toThrow(withCode('AUX_SHAPE_MISMATCH', /states of 4 cells, got 1$/))
    expect(() => layer.forward(x, state[0] as never)).toThrow(
      withCode('AUX_INVALID_ARGUMENT', /expected an array with the state of each cell, got Tensor$/),
    )
    const [cell] = layer.cells
    const expected = (got: string): Error =>
      withCode(
        'AUX_INVALID_ARGUMENT',
        new RegExp(`^${cell.constructor.name}: expected the state as \\[h.*, got ${got}$`),
      )
    expect(() => cell.forward(zeros([3, 2]), state[0] as never)).toThrow(expected('Tensor'))
    expect(() => layer.forward(x, [state[0], state[0], state[0], state[0]] as never)).toThrow(expected('Tensor'))
    expect(() => cell.forward(zeros([3, 2]), [...state, state[0]])).toThrow(expected('Array'))
    expect(() => layer.forward(x, undefined, tensor(Int32Array.of(1, 2)))).toThrow(
      withCode(
        'AUX_SHAPE_MISMATCH',
        new RegExp(`^${layer.constructor.name}: expected lengths of shape \\[3\\], got \\[2\\]`),
      ),
    )
    expect(() => layer.forward(x, undefined, zeros([3]))).toThrow(
      withCode('AUX_DTYPE_MISMATCH', /lengths of dtype i32/),
    )
  })
})

test('one direction with lengths is each row by itself; dropout is between layers, in training', async () => {
  const layer = new nn.GRU(2, 3, { layers: 2, dropout: 0.5 })
  const run = async (x: Tensor, ...lengths: number[]) => {
    const f = compile({ model: layer, forward: ({ x, lengths }) => layer.forward(x, undefined, lengths).output })
    return (await f.run({ x, lengths: Int32Array.from(lengths) })).data
  }
  const x = wave([2, 4, 2], 0)
  const both = await run(x, 4, 3)
  near(both.subarray(12, 21), [...(await run(x.slice([1, 2], [0, 3]), 3))], 1e-6)
  expect([...both.subarray(21)]).toEqual([0, 0, 0])
  const step = compile({
    model: layer,
    loss: ({ x }) => {
      const { output, states } = layer.forward(x)
      return { loss: output.sum(), first: states[0][0], last: states[1][0] }
    },
    optimizer: new optim.SGD({ lr: 0 }),
  })
  const [a, b] = [await step.run({ x }), await step.run({ x })]
  expect(a.first.data).toEqual(b.first.data)
  expect(a.last.data).not.toEqual(b.last.data)
  step.close()
})
