import { spawnSync } from 'node:child_process'
import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import fc from 'fast-check'
import {
  readSafetensors,
  SafetensorsFile,
  toHostArray,
  writeSafetensors,
  type RawTensor,
  type SafetensorsDType,
} from '../../src/io'
import { tensor } from '../../src/ops'
import { hostArray, type HostArray } from '../../src/tensor/host'
import { compiled } from '../support/compiled'
import { withCode } from '../support/refusals'
import { scratchFolder } from '../support/folder'

const folder = scratchFolder()
const at = (name: string): string => path.join(folder, name)
const fixture = (name: string): string => path.join(__dirname, 'fixtures', name)

/** A file with this header and this many bytes of tensors. */
const raw = (header: string | Uint8Array, bytes = 0): string => {
  const text = Buffer.from(header)
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(text.length))
  writeFileSync(at('raw'), Buffer.concat([length, text, Buffer.alloc(bytes)]))
  return at('raw')
}

// Both fixtures were written by the reference library (Python, safetensors 0.8.0).
test('a file of the reference library, with every type', async () => {
  const { tensors, metadata } = await readSafetensors(fixture('reference.safetensors'))
  expect([...metadata].sort()).toEqual([
    ['format', 'pt'],
    ['note', 'a "quoted" ü\n'],
  ])
  const expected: Record<string, [SafetensorsDType, number[], unknown[]]> = {
    f64: ['F64', [2], [0.1, -1e300]],
    i64: ['I64', [2], [-(2n ** 63n), 7n]],
    u64: ['U64', [1], [2n ** 64n - 1n]],
    'layer.weight': ['F32', [2, 3], [0, 1, -2, 3.5, Math.fround(1e-45), Math.fround(3.4e38)]],
    'layer.bias': ['F32', [3], [1, 2, 3]],
    i32: ['I32', [2], [-(2 ** 31), 2 ** 31 - 1]],
    u32: ['U32', [1], [2 ** 32 - 1]],
    bf16: ['BF16', [3], [0x3f80, 0xc000, 0x7f80]],
    f16: ['F16', [6], [0x3c00, 0xc000, 1, 0x7bff, 0xfc00, 0x8000]],
    i16: ['I16', [2], [-32768, 5]],
    u16: ['U16', [1], [65535]],
    i8: ['I8', [3], [-128, 0, 127]],
    u8: ['U8', [3], [0, 128, 255]],
    bool: ['BOOL', [2, 2], [1, 0, 0, 1]],
    scalar: ['F32', [], [42]],
    empty: ['F32', [0, 4], []],
    'ünïcödé "\\ 😀': ['U8', [1], [9]],
  }
  expect([...tensors.keys()].sort()).toEqual(Object.keys(expected).sort())
  for (const [name, [dtype, shape, values]] of Object.entries(expected)) {
    const tensor = tensors.get(name)!
    expect([name, tensor.dtype, tensor.shape, [...tensor.data]]).toEqual([name, dtype, shape, values])
  }
  // Written again it says the same.
  await writeSafetensors(at('again'), tensors, metadata)
  expect(await readSafetensors(at('again'))).toEqual({ tensors, metadata })
})

test('of a plain model the reference library and we write the same bytes', async () => {
  const { tensors, metadata } = await readSafetensors(fixture('float.safetensors'))
  expect(tensors.size).toBe(3)
  await writeSafetensors(at('same'), tensors, metadata)
  expect(readFileSync(at('same'))).toEqual(readFileSync(fixture('float.safetensors')))
})

test('conversions', async () => {
  const { tensors } = await readSafetensors(fixture('reference.safetensors'))
  const of = (name: string, dtype?: HostArray['dtype']): HostArray => toHostArray(tensors.get(name)!, dtype, name)
  expect(of('layer.bias').data).toBe(tensors.get('layer.bias')!.data)
  expect(['bf16', 'i32', 'u8', 'bool', 'u32'].map((name) => of(name).dtype)).toEqual([
    'bf16',
    'i32',
    'u8',
    'bool',
    'u32',
  ])
  expect([...of('bf16', 'f32').data]).toEqual([1, -2, Infinity])
  expect([...of('f16', 'f32').data]).toEqual([1, -2, 2 ** -24, 65504, -Infinity, -0])
  expect([...of('i8', 'i32').data]).toEqual([-128, 0, 127])
  expect([...of('i16', 'f32').data]).toEqual([-32768, 5])
  expect([...of('bool', 'i32').data]).toEqual([1, 0, 0, 1])
  const f64 = (...values: number[]): RawTensor => ({
    dtype: 'F64',
    shape: [values.length],
    data: Float64Array.from(values),
  })
  const i64 = (...values: bigint[]): RawTensor => ({
    dtype: 'I64',
    shape: [values.length],
    data: BigInt64Array.from(values),
  })
  expect([...toHostArray(f64(0.1, NaN, -Infinity), 'f32').data]).toEqual([Math.fround(0.1), NaN, -Infinity])
  expect([...toHostArray(i64(-5n, 2n ** 24n), 'f32').data]).toEqual([-5, 2 ** 24])
  expect([...toHostArray(i64(-(2n ** 31n), 2n ** 31n - 1n), 'i32').data]).toEqual([-(2 ** 31), 2 ** 31 - 1])
  for (const [tensor, dtype] of [
    [tensors.get('f64')!, 'f32'],
    [i64(2n ** 31n), 'i32'],
    [i64(2n ** 24n + 1n), 'f32'],
    [tensors.get('u64')!, 'i32'],
    [tensors.get('u32')!, 'i32'],
  ] as const)
    expect(() => toHostArray(tensor, dtype)).toThrow(withCode('AUX_BAD_FILE'))
  expect(() => toHostArray({ dtype: 'BOOL', shape: [1], data: Uint8Array.of(2) })).toThrow(withCode('AUX_BAD_FILE'))
  for (const [name, dtype] of [
    ['f64', undefined],
    ['f64', 'i32'],
    ['f16', undefined],
    ['layer.bias', 'u8'],
    ['i64', undefined],
  ] as const)
    expect(() => of(name, dtype)).toThrow(withCode('AUX_DTYPE_MISMATCH'))
})

test('a half is what its pattern says, for all 65536', () => {
  const data = Uint16Array.from({ length: 65536 }, (_, i) => i)
  const out = toHostArray({ dtype: 'F16', shape: [65536], data }, 'f32').data
  const view = new DataView(new ArrayBuffer(4))
  const wrong: number[] = []
  for (let i = 0; i < 65536; i++) {
    // Independent: by the bits of the float.
    const [sign, exponent, fraction] = [i >> 15, (i >> 10) & 31, i & 1023]
    let value: number
    if (exponent === 0) value = fraction / 2 ** 24
    else {
      view.setUint32(0, ((exponent === 31 ? 255 : exponent + 112) << 23) | (fraction << 13))
      value = view.getFloat32(0)
    }
    if (!Object.is(out[i], sign ? -value : value)) wrong.push(i)
  }
  expect(wrong).toEqual([])
})

const arrays: Record<SafetensorsDType, (bytes: ArrayBuffer) => RawTensor['data']> = {
  BOOL: (b) => new Uint8Array(b).map((v) => v & 1),
  U8: (b) => new Uint8Array(b),
  I8: (b) => new Int8Array(b),
  I16: (b) => new Int16Array(b),
  U16: (b) => new Uint16Array(b),
  F16: (b) => new Uint16Array(b),
  BF16: (b) => new Uint16Array(b),
  I32: (b) => new Int32Array(b),
  U32: (b) => new Uint32Array(b),
  F32: (b) => new Float32Array(b),
  I64: (b) => new BigInt64Array(b),
  U64: (b) => new BigUint64Array(b),
  F64: (b) => new Float64Array(b),
}
const tensorArbitrary = fc
  .tuple(
    fc.constantFrom(...(Object.keys(arrays) as SafetensorsDType[])),
    fc.array(fc.nat(4), { maxLength: 4 }),
    fc.infiniteStream(fc.nat(255)),
  )
  .map(([dtype, shape, bytes]): RawTensor => {
    const count = shape.reduce((n, d) => n * d, 1)
    const size = arrays[dtype](new ArrayBuffer(0)).BYTES_PER_ELEMENT
    return {
      dtype,
      shape,
      data: arrays[dtype](Uint8Array.from({ length: count * size }, () => bytes.next().value as number).buffer),
    }
  })
const names = fc
  .string({ unit: 'binary', maxLength: 8 })
  .filter((s) => s !== '__metadata__' && !/\p{Surrogate}/u.test(s))
const bits = (t: RawTensor): unknown => [
  t.dtype,
  t.shape,
  Buffer.from(t.data.buffer, t.data.byteOffset, t.data.byteLength).toString('hex'),
]

test('what is written is read, bit by bit, and the order of insertion leaves no trace', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.uniqueArray(fc.tuple(names, tensorArbitrary), { selector: ([n]) => n, maxLength: 8 }),
      fc.dictionary(names, names, { maxKeys: 4 }),
      async (entries, metadata) => {
        await writeSafetensors(at('a'), new Map(entries), metadata)
        const back = await readSafetensors(at('a'))
        expect(new Map([...back.tensors].map(([n, t]) => [n, bits(t)]))).toEqual(
          new Map(entries.map(([n, t]) => [n, bits(t)])),
        )
        expect(back.metadata).toEqual(new Map(Object.entries(metadata)))
        await writeSafetensors(at('b'), new Map(entries.reverse()), new Map(Object.entries(metadata).reverse()))
        const bytes = readFileSync(at('a'))
        expect(readFileSync(at('b'))).toEqual(bytes)
        expect(bytes.readBigUInt64LE() % 8n).toBe(0n)
      },
    ),
    { numRuns: 150 },
  )
})

test('tensors are written as they are, strided ones too', async () => {
  const t = tensor([
    [1, 2],
    [3, 4],
  ])
  await writeSafetensors(at('tensors'), { t, turned: t.transpose(), half: t.cast('bf16') })
  const { tensors } = await readSafetensors(at('tensors'))
  expect(toHostArray(tensors.get('turned')!).data).toEqual(Float32Array.of(1, 3, 2, 4))
  expect(tensors.get('half')!.dtype).toBe('BF16')
  expect(toHostArray(tensors.get('t')!).shape).toEqual([2, 2])
})

test('names that plain objects stumble over', async () => {
  const tensors = new Map(
    ['__proto__', 'constructor', 'toString', ''].map((name, i) => [name, hostArray(Int32Array.of(i))]),
  )
  await writeSafetensors(at('proto'), tensors, new Map([['__proto__', 'x']]))
  const back = await readSafetensors(at('proto'))
  for (const [name, { data }] of tensors) expect([...back.tensors.get(name)!.data]).toEqual([...data])
  expect(back.metadata.get('__proto__')).toBe('x')
})

test('one tensor at a time, and views of larger arrays', async () => {
  const big = Float32Array.of(9, 1, 2, 9)
  await writeSafetensors(
    at('view'),
    { part: hostArray(big.subarray(1, 3)), other: hostArray(Uint8Array.of(1)) },
    { format: 'pt' },
  )
  const file = await SafetensorsFile.open(at('view'))
  expect([...file.infos.keys()].sort()).toEqual(['other', 'part'])
  const seen: number[] = []
  expect([...(await file.read('part', (bytes) => seen.push(bytes.length))).data]).toEqual([1, 2])
  expect(seen).toEqual([8])
  await expect(file.read('absent')).rejects.toEqual(withCode('AUX_BAD_FILE'))
  await file.close()
  expect([...(await readSafetensors(at('view'), { only: (name) => name === 'part' })).tensors.keys()]).toEqual(['part'])
})

test('headers that break a rule', async () => {
  const good = '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
  expect((await readSafetensors(raw(good, 4))).tensors.size).toBe(1)
  expect((await readSafetensors(raw('{}'))).tensors.size).toBe(0)
  expect((await readSafetensors(raw(`${good}   `, 4))).tensors.size).toBe(1)
  expect((await readSafetensors(raw(good.replace(/([:,])/g, ' $1\n\t '), 4))).tensors.size).toBe(1)
  // A tensor without values may lie where another one does begin.
  expect(
    (
      await readSafetensors(
        raw(
          '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"z":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}',
          4,
        ),
      )
    ).tensors.size,
  ).toBe(2)
  const one = (dtype: string, shape: string, offsets: string): string =>
    `{"a":{"dtype":${dtype},"shape":${shape},"data_offsets":${offsets}}}`
  const bad: [string | Uint8Array, number, RegExp][] = [
    [` ${good}`, 4, /begins with \{/],
    [`\ufeff${good}`, 4, /begins with \{/],
    [`${good}\n`, 4, /end/],
    [`${good}{}`, 4, /end/],
    [Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x7d]), 0, /UTF-8/],
    [
      '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}',
      8,
      /once/,
    ],
    [
      '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"\\u0061":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}',
      8,
      /once/,
    ],
    ['{"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}', 4, /once/],
    ['{"__metadata__":{"k":"v","k":"w"}}', 0, /once/],
    ['{"__metadata__":{},"__metadata__":{}}', 0, /once/],
    ['{"__metadata__":{"k":1}}', 0, /a string/],
    ['{"__metadata__":null}', 0, /expected \{/],
    ['{"a":null}', 0, /expected \{/],
    ['{"a":{"dtype":"F32","shape":[1]}}', 4, /data_offsets/],
    ['{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1}}', 4, /"x"/],
    ['{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},}', 4, /a string/],
    ['{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}', 4, /expected \}/],
    ['{"\\ud800":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', 4, /Unicode/],
    ['{"a\u0001":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', 4, /a string/],
    ['{"a', 0, /end of a string/],
    ['{"a\\', 0, /end of a string/],
    [one('"F8_E4M3"', '[4]', '[0,4]'), 4, /F8_E4M3/],
    [one('"F4"', '[8]', '[0,4]'), 4, /"F4"/],
    [one('"toString"', '[4]', '[0,4]'), 4, /toString/],
    [one('3', '[1]', '[0,4]'), 4, /a string/],
    [one('"F32"', '[-1]', '[0,4]'), 4, /integer/],
    [one('"F32"', '[1.0]', '[0,4]'), 4, /integer/],
    [one('"F32"', '[1e0]', '[0,4]'), 4, /integer/],
    [one('"F32"', '[01]', '[0,4]'), 4, /integer/],
    [one('"F32"', '["1"]', '[0,4]'), 4, /integer/],
    [one('"F32"', '[null]', '[0,4]'), 4, /integer/],
    [one('"F32"', '1', '[0,4]'), 4, /expected \[/],
    [one('"F32"', '[9007199254740992]', '[0,4]'), 4, /2\^53/],
    [one('"F32"', '[9007199254740991,9007199254740991,0]', '[0,0]'), 0, /fewer/],
    [one('"F32"', '[4294967296,4294967296]', '[0,0]'), 0, /fewer/],
    [one('"F32"', `[${new Array(65).fill(1).join()}]`, '[0,4]'), 4, /axes/],
    [one('"F32"', '[2]', '[0,4]'), 4, /8 bytes, got 4/],
    [one('"F32"', '[1]', '[4,0]'), 4, /data_offsets/],
    [one('"F32"', '[1]', '[0]'), 4, /data_offsets/],
    [one('"F32"', '[1]', '[0,4,4]'), 4, /data_offsets/],
    [one('"F32"', '[1]', '[1,5]'), 5, /begin at 0/],
    [good, 3, /data_offsets/],
    [good, 5, /followed/],
    ['{}', 1, /followed/],
    [
      '{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[3,5]}}',
      5,
      /begin at 2/,
    ],
    [
      '{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}',
      3,
      /begin at 2/,
    ],
    [
      '{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[0],"data_offsets":[1,1]}}',
      2,
      /begin at/,
    ],
    ['[]', 0, /begins with/],
    [`{"${'x'.repeat(100000)}":3}`, 0, /expected \{/],
  ]
  for (const [header, bytes, message] of bad) {
    const error = await readSafetensors(raw(header, bytes)).catch((e: unknown) => e as Error & { code: string })
    expect([String(header).slice(0, 80), (error as { code?: string }).code]).toEqual([
      String(header).slice(0, 80),
      'AUX_BAD_FILE',
    ])
    expect((error as Error).message).toMatch(message)
    expect((error as Error).message).toMatch(/raw: .*expected .*got /s)
    expect((error as Error).message.length).toBeLessThan(600)
  }
})

test('lengths that lie', async () => {
  for (const bytes of [
    [],
    [1, 2, 3],
    [2, 0, 0, 0, 0, 0, 0],
    [1, 0, 0, 0, 0, 0, 0, 0, 123],
    [3, 0, 0, 0, 0, 0, 0, 0, 123, 125],
    [0, 0, 0, 0, 0, 0, 0, 0],
    [255, 255, 255, 255, 255, 255, 255, 255, 123, 125],
    [0, 0, 0, 0, 0, 0, 0, 128],
  ]) {
    writeFileSync(at('short'), Uint8Array.from(bytes))
    await expect(readSafetensors(at('short'))).rejects.toEqual(withCode('AUX_BAD_FILE'))
  }
  for (const name of [at('absent'), folder, '/dev/null'])
    await expect(readSafetensors(name)).rejects.toEqual(withCode('AUX_BAD_FILE'))
  await expect(readSafetensors(3 as never)).rejects.toEqual(withCode('AUX_INVALID_ARGUMENT'))
})

test('tensors and metadata that cannot be written', async () => {
  const one = hostArray(Float32Array.of(1))
  const bad: [Record<string, unknown>, Record<string, unknown>][] = [
    [{ __metadata__: one }, {}],
    [{ '\ud800': one }, {}],
    [{ a: { ...one, shape: [2] } }, {}],
    [{ a: { ...one, dtype: 'f99' } }, {}],
    [{ a: { ...one, dtype: 'F64' } }, {}],
    [{ a: { ...one, shape: [-1] } }, {}],
    [{ a: { ...one, shape: new Array(65).fill(1) } }, {}],
    [{ a: [1] }, {}],
    [{ a: null }, {}],
    [{ a: one }, { k: 1 }],
    [{ a: one }, { k: '\udfff' }],
  ]
  for (const [tensors, metadata] of bad)
    await expect(writeSafetensors(at('never'), tensors as never, metadata as never)).rejects.toEqual(
      withCode('AUX_INVALID_ARGUMENT'),
    )
  expect(() => readFileSync(at('never'))).toThrow('ENOENT')
})

test('sharded models', async () => {
  const home = at('sharded')
  mkdirSync(home)
  const index = path.join(home, 'model.safetensors.index.json')
  const write = (map: Record<string, string>, more = ''): void =>
    writeFileSync(
      index,
      `{"metadata":{"total_size":8,"x":[null,-1.5e3,{"y":true}]},"weight_map":${JSON.stringify(map)}${more}}\n`,
    )
  await writeSafetensors(
    path.join(home, 'm-1.safetensors'),
    { a: hostArray(Int32Array.of(1)), extra: hostArray(Int32Array.of(3)) },
    { format: 'pt' },
  )
  await writeSafetensors(path.join(home, 'm-2.safetensors'), { b: hostArray(Int32Array.of(2)) })
  write({ a: 'm-1.safetensors', b: 'm-2.safetensors' })
  const { tensors, metadata } = await readSafetensors(index)
  expect([...tensors].map(([name, t]) => [name, ...t.data])).toEqual([
    ['a', 1],
    ['b', 2],
  ])
  expect(metadata.get('format')).toBe('pt')
  expect([...(await readSafetensors(index, { only: (name) => name === 'b' })).tensors.keys()]).toEqual(['b'])
  await writeSafetensors(at('outside.safetensors'), { a: hostArray(Int32Array.of(1)) })
  for (const shard of [
    '../outside.safetensors',
    '..',
    '.',
    '',
    'x/../m-1.safetensors',
    at('outside.safetensors'),
    '..\\outside.safetensors',
    'C:outside.safetensors',
    'absent.safetensors',
  ]) {
    write({ a: shard })
    await expect(readSafetensors(index)).rejects.toEqual(withCode('AUX_BAD_FILE'))
  }
  symlinkSync(at('outside.safetensors'), path.join(home, 'link.safetensors'))
  symlinkSync('m-1.safetensors', path.join(home, 'inner.safetensors'))
  write({ a: 'link.safetensors' })
  await expect(readSafetensors(index)).rejects.toThrow('allowLinks')
  expect((await readSafetensors(index, { allowLinks: true })).tensors.size).toBe(1)
  write({ a: 'inner.safetensors' })
  expect((await readSafetensors(index)).tensors.size).toBe(1)
  write({ b: 'm-1.safetensors' })
  await expect(readSafetensors(index)).rejects.toThrow('expected a tensor "b"')
  for (const text of [
    '{}',
    '[]',
    '{"weight_map":{"a":1}}',
    '{"weight_map":{"a":"x","a":"y"}}',
    '{"weight_map":{}',
    '\xff',
    `{"x":${'['.repeat(1000)}`,
    '{"weight_map":{}} x',
  ]) {
    writeFileSync(index, text, 'latin1')
    await expect(readSafetensors(index)).rejects.toEqual(withCode('AUX_BAD_FILE'))
  }
})

test('reading takes the memory of the tensors once', async () => {
  const mebibytes = 96
  await writeSafetensors(at('big'), {
    a: hostArray(new Float32Array(mebibytes << 17).fill(1)),
    b: hostArray(new Int32Array(mebibytes << 17).fill(2)),
  })
  const { folder: src, remove } = compiled()
  const program = `const { readSafetensors } = require(process.argv[1] + '/io')
    const before = process.resourceUsage().maxRSS
    readSafetensors(process.argv[2]).then(({ tensors }) => {
      const bytes = [...tensors.values()].reduce((n, t) => n + t.data.byteLength, 0)
      console.log(JSON.stringify([bytes, tensors.get('a').data[5], (process.resourceUsage().maxRSS - before) * 1024]))
    })`
  const { stdout, stderr } = spawnSync(process.execPath, ['-e', program, src, at('big')], { encoding: 'utf8' })
  remove()
  expect(stderr).toBe('')
  const [bytes, value, grown] = JSON.parse(stdout) as number[]
  expect([bytes, value]).toEqual([mebibytes << 20, 1])
  expect(grown).toBeLessThan(1.25 * bytes)
})
