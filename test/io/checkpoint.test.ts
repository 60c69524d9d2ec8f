import { spawn, spawnSync } from 'node:child_process'
import {
  chmodSync,
  existsSync,
  linkSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { loadCheckpoint, readSafetensors, saveCheckpoint, writeSafetensors, type Json } from '../../src/io'
import { writeAtomic } from '../../src/io/atomic'
import { hostArray, type HostArray } from '../../src/tensor/host'
import { compiled } from '../support/compiled'
import { withCode } from '../support/refusals'
import { scratchFolder } from '../support/folder'

const long = process.env.AUXGRAD_LONG === '1'
const root = scratchFolder()
let folder: string
let count = 0
beforeEach(() => mkdirSync((folder = path.join(root, String(count++)))))
afterEach(() => delete process.env.AUXGRAD_FAULTS)
const at = (name: string): string => path.join(folder, name)

const numbered = (step: number): { tensors: Map<string, HostArray>; state: Json } => ({
  tensors: new Map([
    ['conv1.weight', hostArray(new Float32Array(1000).fill(step), [10, 100])],
    ['mask', hostArray(Uint8Array.of(1, 0, 1), [3], 'bool')],
    ['packed', hostArray(Uint32Array.of(step, 2 ** 32 - 1))],
  ]),
  state: { step, loader: { epoch: 1, position: 7 }, name: 'ünï "quoted" "sha256":"' + '0'.repeat(64) + '"', empty: [] },
})
const stepOf = async (file: string, options = {}): Promise<number> => {
  const { tensors, state } = await loadCheckpoint(file, options)
  const { step } = state as { step: number }
  expect(tensors.get('conv1.weight')!.data.every((v) => v === step)).toBe(true)
  return step
}

test('a checkpoint comes back, and is a safetensors file', async () => {
  const saved = numbered(5)
  await saveCheckpoint(at('c'), saved)
  const { tensors, state, path: from } = await loadCheckpoint(at('c'))
  expect([from, state]).toEqual([at('c'), saved.state])
  expect([...tensors].sort()).toEqual([...saved.tensors].sort())
  expect((await readSafetensors(at('c'))).metadata.get('format')).toBe('auxgrad.checkpoint')
  await saveCheckpoint(at('d'), saved)
  expect(readFileSync(at('d'))).toEqual(readFileSync(at('c')))
  await saveCheckpoint(at('empty'), { tensors: new Map(), state: null })
  expect(await loadCheckpoint(at('empty'))).toMatchObject({ state: null, tensors: new Map() })
})

test('a state that JSON would change is refused, and says where', async () => {
  const cyclic: { self?: unknown } = {}
  cyclic.self = cyclic
  const bad: [unknown, string][] = [
    [NaN, 'state is NaN'],
    [{ a: [1, Infinity] }, 'state.a[1] is Infinity'],
    [{ a: undefined }, 'state.a is undefined'],
    [{ f: () => 1 }, 'state.f is a function'],
    [1n, 'state is a bigint'],
    [{ d: new Date(0) }, 'state.d is a Date'],
    [{ t: Float32Array.of(1) }, 'state.t is a Float32Array'],
    [cyclic, 'state.self contains itself'],
  ]
  for (const [state, message] of bad) {
    const saving = saveCheckpoint(at('c'), { tensors: new Map(), state: state as Json })
    await expect(saving).rejects.toEqual(withCode('AUX_INVALID_ARGUMENT'))
    await expect(saving).rejects.toThrow(message)
  }
  for (const keep of [0, 1.5])
    await expect(saveCheckpoint(at('c'), { ...numbered(1), keep })).rejects.toEqual(withCode('AUX_INVALID_ARGUMENT'))
  expect(readdirSync(folder)).toEqual([])
})

test('predecessors are kept, as many as asked for, and stand in when asked to', async () => {
  for (let step = 1; step <= 5; step++) await saveCheckpoint(at('c'), { ...numbered(step), keep: 3 })
  expect(readdirSync(folder).sort()).toEqual(['c', 'c.1', 'c.2'])
  expect([await stepOf(at('c')), await stepOf(at('c.1')), await stepOf(at('c.2'))]).toEqual([5, 4, 3])
  const damage = (name: string): void => {
    const bytes = readFileSync(at(name))
    bytes[bytes.length - 1] ^= 1
    rmSync(at(name))
    writeFileSync(at(name), bytes)
  }
  damage('c')
  await expect(loadCheckpoint(at('c'))).rejects.toThrow('damaged')
  expect((await loadCheckpoint(at('c'), { fallback: true })).path).toBe(at('c.1'))
  rmSync(at('c.1'))
  rmSync(at('c'))
  await expect(loadCheckpoint(at('c'))).rejects.toEqual(withCode('AUX_BAD_FILE'))
  expect(await stepOf(at('c'), { fallback: true })).toBe(3)
  damage('c.2')
  await expect(loadCheckpoint(at('c'), { fallback: true })).rejects.toEqual(withCode('AUX_BAD_FILE'))
  // A file that both names stand for, as after a crash between the two steps.
  await saveCheckpoint(at('d'), numbered(1))
  linkSync(at('d'), at('d.1'))
  await saveCheckpoint(at('d'), { ...numbered(2), keep: 2 })
  expect(
    readdirSync(folder)
      .filter((n) => n.startsWith('d'))
      .sort(),
  ).toEqual(['d', 'd.1'])
  expect([await stepOf(at('d')), await stepOf(at('d.1'))]).toEqual([2, 1])
})

test('files that are no checkpoints', async () => {
  await writeSafetensors(at('plain'), { a: hostArray(Float32Array.of(1)) })
  await expect(loadCheckpoint(at('plain'))).rejects.toThrow('another safetensors file')
  await writeSafetensors(at('newer'), {}, { format: 'auxgrad.checkpoint', version: '2' })
  await expect(loadCheckpoint(at('newer'))).rejects.toThrow('version 1, got 2')
  await writeSafetensors(at('bare'), {}, { format: 'auxgrad.checkpoint', version: '1' })
  await expect(loadCheckpoint(at('bare'))).rejects.toEqual(withCode('AUX_BAD_FILE'))
  await expect(loadCheckpoint(at('absent'), { fallback: true })).rejects.toThrow('no such file')
})

test('saves of one file at a time, in the order asked for', async () => {
  await Promise.all(Array.from({ length: 10 }, (_, i) => saveCheckpoint(at('c'), { ...numbered(i), keep: 10 })))
  for (let i = 0; i < 10; i++) expect(await stepOf(i === 0 ? at('c') : at(`c.${i}`))).toBe(9 - i)
})

test('links are followed, modes are kept, old leftovers go, others stay', async () => {
  await writeAtomic(at('real'), [Buffer.from('1')])
  chmodSync(at('real'), 0o600)
  symlinkSync('real', at('link'))
  const names = ['real.tmp-12-0123456789ab', 'real.tmp-13-0123456789ab', 'real.tmp-x', 'other.tmp-12-0123456789ab']
  for (const name of names) writeFileSync(at(name), '')
  for (const name of names) if (!name.includes('-13-')) utimesSync(at(name), 0, 0)
  await writeAtomic(at('link'), [Buffer.from('2'), Buffer.alloc(0), Buffer.from('3')])
  expect(readFileSync(at('real'), 'utf8')).toBe('23')
  expect(statSync(at('real')).mode & 0o777).toBe(0o600)
  expect(readdirSync(folder).sort()).toEqual([
    'link',
    'other.tmp-12-0123456789ab',
    'real',
    'real.tmp-13-0123456789ab',
    'real.tmp-x',
  ])
})

test('directories that are not there, or are in the way', async () => {
  await expect(saveCheckpoint(at('no/such/c'), numbered(1))).rejects.toThrow(/no such file or directory \(ENOENT\)/)
  writeFileSync(at('file'), '')
  await expect(saveCheckpoint(at('file/c'), numbered(1))).rejects.toThrow(/not a directory \(ENOTDIR\)/)
  await expect(saveCheckpoint(folder, numbered(1))).rejects.toThrow(/it is a directory/)
  for (const file of ['no/such/c', 'file/c'])
    await expect(saveCheckpoint(at(file), numbered(1))).rejects.toEqual(withCode('AUX_WRITE_FAILED'))
  await expect(writeAtomic('', [])).rejects.toEqual(withCode('AUX_INVALID_ARGUMENT'))
  expect(readdirSync(folder)).toEqual(['file'])
})

// Each call of each kind fails once, until a run comes through without a failure.
test.each(['open', 'write', 'fsync', 'link', 'rename'])('every %s that fails leaves what was there', async (call) => {
  let failures = 0
  for (let k = 1; ; k++) {
    folder = path.join(root, `${call}-${k}`)
    mkdirSync(folder)
    for (const step of [1, 2, 3]) await saveCheckpoint(at('c'), { ...numbered(step), keep: 3 })
    process.env.AUXGRAD_FAULTS = `${call}:${k}:${call === 'open' ? 'EACCES' : call === 'write' ? 'ENOSPC' : 'EIO'}`
    const error = await saveCheckpoint(at('c'), { ...numbered(4), keep: 3 }).catch(
      (e: unknown) => e as Error & { code: string },
    )
    delete process.env.AUXGRAD_FAULTS
    if (!error) break
    failures++
    expect(error.code).toBe('AUX_WRITE_FAILED')
    expect(error.message).toMatch(/c: cannot be written: .*\((EACCES|ENOSPC|EIO)\)/)
    expect(await stepOf(at('c'))).toBe(/unchanged/.test(error.message) ? 3 : 4)
    for (const name of readdirSync(folder)) {
      expect(name).toMatch(/^c(\.[12])?$/)
      await stepOf(at(name))
    }
    await saveCheckpoint(at('c'), { ...numbered(5), keep: 3 })
    expect(await stepOf(at('c'))).toBe(5)
  }
  expect(failures).toBe({ open: 1, write: 4, fsync: 2, link: 1, rename: 3 }[call])
})

test('a failure that lasts, a short write, a file system without links', async () => {
  await saveCheckpoint(at('c'), numbered(1))
  process.env.AUXGRAD_FAULTS = 'write:2+:EDQUOT'
  for (let i = 0; i < 2; i++)
    await expect(saveCheckpoint(at('c'), numbered(2))).rejects.toThrow(
      /quota is used up \(EDQUOT\); the file that was there is unchanged/,
    )
  process.env.AUXGRAD_FAULTS = 'write:1+:SHORT'
  await saveCheckpoint(at('c'), numbered(3))
  expect(await stepOf(at('c'))).toBe(3)
  process.env.AUXGRAD_FAULTS = 'link:1+:EPERM'
  await saveCheckpoint(at('c'), { ...numbered(4), keep: 2 })
  expect([await stepOf(at('c')), await stepOf(at('c.1'))]).toEqual([4, 3])
  process.env.AUXGRAD_FAULTS = 'link:1+:EPERM,rename:2:EIO'
  await expect(saveCheckpoint(at('c'), { ...numbered(5), keep: 2 })).rejects.toEqual(withCode('AUX_WRITE_FAILED'))
  expect(await stepOf(at('c'))).toBe(4)
  process.env.AUXGRAD_FAULTS = 'nonsense,alloc:1'
  await saveCheckpoint(at('c'), numbered(6))
  expect(await stepOf(at('c'))).toBe(6)
})

describe('in another process', () => {
  let program: ReturnType<typeof compiled>
  beforeAll(() => (program = compiled()))
  afterAll(() => program.remove())

  // Saves steps 1, 2, 3, ... of 1 MiB, and says each one that is saved.
  const saver = `
    const { saveCheckpoint } = require(process.argv[1] + '/io')
    ;(async () => {
      for (let step = Number(process.argv[3]); step <= Number(process.argv[4]); step++) {
        const data = new Float32Array(1 << 18).fill(step)
        await saveCheckpoint(process.argv[2], { tensors: new Map([['conv1.weight', { data, shape: [data.length], dtype: 'f32' }]]), state: { step }, keep: 2 })
        console.log(step)
      }
    })().catch((error) => { console.log(error.code, error.message); process.exit(3) })`
  const args = (from: number, to: number): string[] => ['-e', saver, program.folder, at('c'), String(from), String(to)]

  test(
    'kill -9 at any moment leaves a checkpoint that loads, the newest that was reported or a newer one',
    async () => {
      let reported = 0
      let interrupted = 0
      for (let round = 0; round < (long ? 200 : 20); round++) {
        const child = spawn(process.execPath, args(reported + 1, reported + 1000), {
          stdio: ['ignore', 'pipe', 'inherit'],
        })
        let out = ''
        let wake = (): void => {}
        const first = new Promise<void>((resolve) => (wake = resolve))
        child.stdout.on('data', (text: Buffer) => {
          out += text.toString()
          wake()
        })
        const closed = new Promise((resolve) => child.on('close', resolve))
        await first
        await sleep(Math.random() * 20)
        child.kill('SIGKILL')
        await closed
        reported = Number(out.trim().split('\n').pop())
        expect(reported).toBeGreaterThan(0)
        expect([reported, reported + 1]).toContain(await stepOf(at('c')))
        if (existsSync(at('c.1'))) await stepOf(at('c.1'))
        for (const name of readdirSync(folder))
          if (!/^c(\.1)?$/.test(name)) {
            interrupted++
            rmSync(at(name))
          }
      }
      // The rounds are worth something only if many of them struck in the middle of a write.
      if (long) console.info(`${interrupted} of 200 rounds struck during a save`)
      expect(interrupted).toBeGreaterThan(long ? 40 : 2)
    },
    long ? 600_000 : 60_000,
  )

  test('a limit on the size of files (EFBIG)', async () => {
    expect(spawnSync(process.execPath, args(1, 1), { encoding: 'utf8' }).stdout).toBe('1\n')
    const { stdout, status } = spawnSync(
      'sh',
      ['-c', 'ulimit -f 256; exec "$0" "$@"', process.execPath, ...args(2, 2)],
      { encoding: 'utf8' },
    )
    expect([stdout, status]).toEqual([
      expect.stringMatching(/^AUX_WRITE_FAILED .*\(EFBIG\); the file that was there is unchanged/),
      3,
    ])
    expect(await stepOf(at('c'))).toBe(1)
    expect(readdirSync(folder)).toEqual(['c'])
  })

  test('a full disk (ENOSPC)', () => {
    // A file system of 3 MiB of its own: two checkpoints fit, a third does not. Needs the right to mount.
    const script = `mount -t tmpfs -o size=3m none "$0" || exit 77
      "$@"; a=$?; ls "$0"; exec "$1" -e "require('$2/io').loadCheckpoint('$0/c').then(({ state }) => console.log(state.step, $a))"`
    const body = saver.replace(
      'const data',
      'if (step === 3) require("fs").writeFileSync(process.argv[2] + ".fill", new Uint8Array(700000)); const data',
    )
    const wrapped = [
      'unshare',
      '-rm',
      'sh',
      '-c',
      script.replace('"$@"', `"$1" -e '${body.replace(/'/g, `'\\''`)}' "$2" "$0/c" 1 4`),
      folder,
      process.execPath,
      program.folder,
    ]
    const { stdout, stderr, status, error } = spawnSync(wrapped[0], wrapped.slice(1), { encoding: 'utf8' })
    if (error || status === 77 || stderr.startsWith('unshare:')) {
      console.warn('no right to mount here: a full disk was tried by injected faults only')
      return
    }
    expect(stdout).toMatch(
      /^1\n2\nAUX_WRITE_FAILED .*no space left on the device \(ENOSPC\); the file that was there is unchanged\nc\nc.1\nc.fill\n2 3\n$/,
    )
  })

  test('importing auxgrad loads its own files and nothing else', () => {
    const list = `require(process.argv[1]); console.log(JSON.stringify(Object.keys(require.cache)))`
    const { stdout, stderr } = spawnSync(process.execPath, ['-e', list, path.join(program.folder, 'index.js')], {
      encoding: 'utf8',
    })
    expect(stderr).toBe('')
    const files = JSON.parse(stdout) as string[]
    expect(files.length).toBeGreaterThan(20)
    expect(files.filter((name) => !name.startsWith(program.folder))).toEqual([])
  })
})
