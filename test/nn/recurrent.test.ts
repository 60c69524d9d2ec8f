import { asa, checkpoint, compile, nn, optim, quantized, tensor, zeros, type Tensor } from '../../src'
import { generator } from '../support/run'

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
  const gru = new nn.GRUCell(2, 3, { bias: false })
  const [first] = gru.forward(tensor([[1, -1]]))
  expect(gru.forward(tensor([[1, -1]]), [first])[0].dataSync()).not.toEqual(first.dataSync())
})

test('gradients of the positions are put together: the work grows with their number, not with its square', () => {
  const work = (length: number): number => {
    const layer = new nn.GRU(3, 4, { layers: 2 })
    const step = compile({
      model: layer,
      loss: ({ x }) => layer.forward(x).output.mean(),
      optimizer: new optim.SGD({ lr: 0.1 }),
    })
    const plan = step.plan({ x: [2, length, 3] })
    const written = plan.ops.reduce((bytes, op) => bytes + op.bytes, 0)
    expect(plan.ops.filter((op) => op.kernel === 'place')).toEqual([])
    step.close()
    return written
  }
  expect(work(24) / work(6)).toBeLessThan(4.5)
})
