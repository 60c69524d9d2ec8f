// Runs where `auxgrad` is an installed package, on any platform: a few exact results, an error, a worker. Prints one
// JSON line, the same everywhere. No test framework: it runs under emulators and other Nodes.
'use strict'
const { Worker, isMainThread, parentPort } = require('node:worker_threads')
const auxgrad = require('auxgrad')

function compute() {
  const { conv2d, crossEntropy, tensor } = auxgrad
  const square = tensor([
    [1, 2],
    [3, 4],
  ])
  const image = tensor(
    Float32Array.from({ length: 50 }, (_, i) => (i * 7) % 5),
    [1, 5, 5, 2],
  )
  const filter = tensor(
    Float32Array.from({ length: 54 }, (_, i) => ((i * 5) % 7) - 3),
    [3, 3, 3, 2],
  )
  return {
    product: [...square.matmul(square).dataSync()],
    sum: [
      ...square
        .add(tensor([10, 20]))
        .sum(1)
        .dataSync(),
    ],
    convolution: [...conv2d(image, filter, undefined, { padding: 1 }).dataSync()],
    loss: crossEntropy(tensor([[0, 0]]), tensor(Int32Array.of(1)))
      .item()
      .toFixed(6),
  }
}

function mistake() {
  try {
    auxgrad.tensor([[1, 2]]).matmul(auxgrad.tensor([[1, 2]]))
    return 'none'
  } catch (error) {
    return `${error instanceof auxgrad.AuxgradError} ${error.code}`
  }
}

if (!isMainThread) {
  parentPort.postMessage(compute())
} else {
  const here = compute()
  const worker = new Worker(__filename)
  worker.once('message', (there) => {
    worker.once('exit', (code) => {
      const same = JSON.stringify(here) === JSON.stringify(there)
      console.log(JSON.stringify({ ...here, error: mistake(), worker: same && code === 0 }))
    })
  })
}
