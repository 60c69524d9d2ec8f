import { mkdtempSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { createContext, runInContext } from 'node:vm'
import * as auxgrad from '../../src'

// A program in a context of its own (node:vm, Electron, a test runner): none of its arrays, maps, functions and plain
// objects are of the classes that the library knows.
const context = createContext({
  auxgrad,
  file: path.join(mkdtempSync(path.join(tmpdir(), 'auxgrad-')), 'x.safetensors'),
})
const there = (code: string): unknown => runInContext(`{ const { nn, optim, tensor } = auxgrad; ${code} }`, context)

test('tidy keeps what is returned in objects of another context', () => {
  expect(there('auxgrad.tidy(() => ({ a: [tensor([1]).add(1)] })).a[0].toArray()')).toEqual([2])
})

test('parts in objects and arrays of another context are found, named and loaded', () => {
  expect(
    there(`
      class Net extends nn.Module {
        parts = { a: new nn.Linear(1, 1), list: [new nn.Linear(1, 1)] }
        forward(x) { return this.parts.list[0].forward(this.parts.a.forward(x)) }
      }
      const net = new Net()
      new Net().loadState(new Map(net.state()))
      ;[...net.namedParameters()].map(([name]) => name).join()
    `),
  ).toBe('parts.a.weight,parts.a.bias,parts.list.0.weight,parts.list.0.bias')
})

test('so are patterns, promises and what is written to files', async () => {
  there('new optim.Adam({ lr: 1, groups: [{ match: /bias/, weightDecay: 0 }] })')
  expect(() => there('auxgrad.compile(async () => tensor([1])).plan({})')).toThrow(/got a promise/)
  await there(
    `auxgrad.io.writeSafetensors(file, new Map([['x', { data: new Float32Array(2), shape: [2], dtype: 'f32' }]]))`,
  )
})
