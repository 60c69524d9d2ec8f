import { readFileSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { loadCheckpoint, readSafetensors, saveCheckpoint, writeSafetensors } from '../../src/io'
import { hostArray } from '../../src/tensor/host'
import { Random } from '../../src/tensor/philox'
import { scratchFolder } from '../support/folder'

// AUXGRAD_LONG=1 runs 100,000 rounds instead of 5,000; AUXGRAD_SEED picks others.
const long = process.env.AUXGRAD_LONG === '1'
const rounds = long ? 100_000 : 5_000
const seed = Number(process.env.AUXGRAD_SEED ?? 1)

const folder = scratchFolder()
const at = (name: string): string => path.join(folder, name)

// Counts the bytes of typed memory that is asked for while it is on.
let allocated = 0
const real = { ArrayBuffer, Uint8Array }
function counting(on: boolean): void {
  allocated = 0
  const counted = <T extends object>(constructor: T): T =>
    new Proxy(constructor, {
      construct(target, args: unknown[], made) {
        if (typeof args[0] === 'number') allocated += args[0]
        return Reflect.construct(target as never, args, made) as object
      },
    })
  Object.assign(
    globalThis,
    on ? { ArrayBuffer: counted(real.ArrayBuffer), Uint8Array: counted(real.Uint8Array) } : real,
  )
}

const numbers = [
  '0',
  '1',
  '2',
  '3',
  '4',
  '7',
  '8',
  '15',
  '16',
  '64',
  '255',
  '256',
  '65536',
  '2147483647',
  '2147483648',
  '4294967295',
  '4294967296',
  '4611686018427387904',
  '9007199254740991',
  '9007199254740992',
  '18446744073709551615',
  '18446744073709551616',
  '-1',
  '-0',
  '1e3',
  '0.5',
  '00',
  '""',
  'null',
  '[]',
]
const pieces = [
  '{',
  '}',
  '[',
  ']',
  ',',
  ':',
  '"',
  '\\',
  ' ',
  '\0',
  '"dtype"',
  '"shape"',
  '"data_offsets"',
  '"__metadata__"',
  '"F32"',
  '"I64"',
  '"F8_E5M2"',
  '"\\u0000"',
  '\ufeff',
]

function withHeader(header: Buffer, rest: Buffer): Buffer {
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(header.length))
  return Buffer.concat([length, header, rest])
}

function mutate(file: Buffer, random: Random): Buffer {
  const n = Number(file.readBigUInt64LE())
  const header = file.subarray(8, 8 + n)
  const rest = file.subarray(8 + n)
  const text = header.toString('latin1')
  const edited = (s: string): Buffer => withHeader(Buffer.from(s, 'latin1'), rest)
  switch (random.below(8)) {
    case 0: {
      const copy = Buffer.from(file)
      for (let i = random.below(4); i >= 0; i--) copy[random.below(copy.length)] ^= 1 << random.below(8)
      return copy
    }
    case 1: {
      const copy = Buffer.from(file)
      for (let i = random.below(3); i >= 0; i--) copy[random.below(8 + n)] = random.below(256)
      return copy
    }
    case 2:
      return file.subarray(0, random.below(file.length))
    case 3: {
      const runs = [...text.matchAll(/\d+/g)]
      const run = runs[random.below(runs.length)]
      return edited(
        text.slice(0, run.index) + numbers[random.below(numbers.length)] + text.slice(run.index + run[0].length),
      )
    }
    case 4: {
      const place = random.below(n + 1)
      return edited(text.slice(0, place) + pieces[random.below(pieces.length)] + text.slice(place))
    }
    case 5: {
      const [a, b] = [random.below(n + 1), random.below(n + 1)].sort((x, y) => x - y)
      return edited(random.below(2) ? text.slice(0, a) + text.slice(b) : text.slice(0, b) + text.slice(a))
    }
    case 6: {
      const entries = text.match(/"[^"]*":\{"dtype[^}]*\}/g)!
      const [a, b] = [entries[random.below(entries.length)], entries[random.below(entries.length)]]
      return edited(text.replace(a, random.below(2) ? b : `${a},${b}`))
    }
    default:
      return Buffer.concat([file, Buffer.alloc(1 + random.below(16))])
  }
}

async function seeds(): Promise<Buffer[]> {
  const plain = at('plain')
  await writeSafetensors(
    plain,
    {
      w: hostArray(Float32Array.of(1, 2, 3, 4, 5, 6), [2, 3]),
      b: hostArray(Uint8Array.of(1, 0, 1), [3], 'bool'),
      e: hostArray(new Int32Array(0), [0, 7]),
      s: hostArray(Uint16Array.of(9), []),
    },
    { k: 'v' },
  )
  return [
    plain,
    path.join(__dirname, 'fixtures/reference.safetensors'),
    path.join(__dirname, 'fixtures/float.safetensors'),
  ].map((name) => readFileSync(name))
}

async function outcome(read: (name: string) => Promise<unknown>, bytes: Uint8Array): Promise<unknown> {
  const name = at('case')
  writeFileSync(name, bytes)
  counting(true)
  try {
    return await read(name)
  } catch (error) {
    const { code, message } = error as { code?: string; message: string }
    if (code !== 'AUX_BAD_FILE') {
      writeFileSync(path.join(tmpdir(), 'auxgrad-crasher'), bytes)
      throw error
    }
    expect(message.length).toBeLessThan(1000)
    return undefined
  } finally {
    const most = allocated
    counting(false)
    if (most > 2 * bytes.length + 64) throw new Error(`allocated ${most} bytes for a file of ${bytes.length}`)
  }
}

test('the counter of allocations sees what is allocated', async () => {
  const bytes = (await seeds())[0]
  await expect(outcome(async () => new Uint8Array(3 * bytes.length), bytes)).rejects.toThrow('allocated')
  await expect(outcome(async () => new ArrayBuffer(3 * bytes.length), bytes)).rejects.toThrow('allocated')
})

test(
  'a damaged safetensors file is read consistently or refused',
  async () => {
    const files = await seeds()
    const random = new Random(seed).seek(1)
    let valid = 0
    const read = async (bytes: Buffer): Promise<void> => {
      const result = (await outcome(readSafetensors, bytes)) as Awaited<ReturnType<typeof readSafetensors>> | undefined
      if (!result) return
      valid++
      let total = 8 + Number(bytes.readBigUInt64LE())
      for (const { shape, data } of result.tensors.values()) {
        expect(shape.reduce((n, d) => n * d, 1)).toBe(data.length)
        total += data.byteLength
      }
      expect(total).toBe(bytes.length)
    }
    let cases = 0
    for (const file of files) for (let cut = 0; cut <= file.length; cut++, cases++) await read(file.subarray(0, cut))
    expect(valid).toBe(files.length)
    for (; cases < rounds; cases++) await read(mutate(files[random.below(files.length)], random))
    // Values may change unseen, the shape of the file may not.
    expect(valid).toBeGreaterThan(cases / 100)
    expect(valid).toBeLessThan(cases / 2)
  },
  long ? 600_000 : 60_000,
)

test(
  'a damaged checkpoint is refused, whichever bit it is',
  async () => {
    const name = at('checkpoint')
    await saveCheckpoint(name, {
      tensors: new Map([
        ['w', hostArray(Float32Array.of(1, 2, 3))],
        ['m', hostArray(Uint8Array.of(1, 0), [2], 'bool')],
      ]),
      state: { step: 3, seed: [1, 'two', null] },
    })
    const file = readFileSync(name)
    for (let cut = 0; cut < file.length; cut++)
      expect(await outcome(loadCheckpoint, file.subarray(0, cut))).toBeUndefined()
    for (let bit = 0; bit < 8 * file.length; bit++) {
      const copy = Buffer.from(file)
      copy[bit >> 3] ^= 1 << (bit & 7)
      expect(await outcome(loadCheckpoint, copy)).toBeUndefined()
    }
    const random = new Random(seed).seek(2)
    for (let i = 0; i < (long ? 20_000 : 1_000); i++) {
      const copy = mutate(file, random)
      if (!copy.equals(file)) expect(await outcome(loadCheckpoint, copy)).toBeUndefined()
    }
    expect(await outcome(loadCheckpoint, file)).toMatchObject({ state: { step: 3 } })
  },
  long ? 600_000 : 60_000,
)
