// A PyTorch process that takes one command a line and answers each with one line.
'use strict'
const { spawn, spawnSync } = require('node:child_process')
const path = require('node:path')
const readline = require('node:readline')

/** The first of these programs that can import torch, or undefined. */
function findPython(candidates) {
  return candidates.find((p) => spawnSync(p, ['-c', 'import torch, numpy'], { stdio: 'ignore' }).status === 0)
}

/** Holds PyTorch and its libraries to the instruction set of our kernels, for the processes started after this. */
function holdTo(isa) {
  if (isa === 'avx2')
    Object.assign(process.env, { ATEN_CPU_CAPABILITY: 'avx2', DNNL_MAX_CPU_ISA: 'AVX2', OPENBLAS_CORETYPE: 'Haswell' })
  // An OpenBLAS older than the processor may take it for one without AVX, and be ten times slower.
  if (isa === 'avx512' || isa === 'amx') process.env.OPENBLAS_CORETYPE ??= 'SkylakeX'
}

class Peer {
  #child
  #lines
  #errors = ''

  /**
   * @param threads how many it computes with, in its own kernels and in its BLAS
   * @param options.patient threads without work sleep instead of spinning: slower alone, far faster beside others
   * @param options.script what it runs
   */
  constructor(python, threads, { patient = false, script = path.join(__dirname, 'train.py') } = {}) {
    const n = String(threads)
    const env = {
      ...process.env,
      OMP_NUM_THREADS: n,
      OPENBLAS_NUM_THREADS: n,
      MKL_NUM_THREADS: n,
      ...(patient ? { OMP_WAIT_POLICY: 'passive' } : {}),
    }
    this.#child = spawn(python, [script, n], { env, stdio: ['pipe', 'pipe', 'pipe'] })
    this.#child.stderr.setEncoding('utf8').on('data', (text) => (this.#errors += text))
    this.#lines = readline.createInterface({ input: this.#child.stdout })[Symbol.asyncIterator]()
  }

  /** Version and threads, once it is up. */
  hello() {
    return this.#answer('start')
  }

  ask(command) {
    this.#child.stdin.write(`${JSON.stringify(command)}\n`)
    return this.#answer(command.do)
  }

  async #answer(what) {
    const { value, done } = await this.#lines.next()
    if (done) throw new Error(`PyTorch ended at ${what}: ${this.#errors.trim().split('\n').slice(-4).join(' | ')}`)
    return JSON.parse(value)
  }

  end() {
    this.#child.stdin.end()
  }
}

module.exports = { findPython, holdTo, Peer }
