import { showBytes } from '../compile/bytes'
import { canLearn } from '../ops/store'
import { showShape } from '../tensor/shape'
import type { Tensor } from '../tensor/tensor'
import type { Module } from './module'
import { Parameter } from './parameter'

/** @internal A model in words: a line a module, with its path, its class, its own tensors, and how many parameters those are. */
export function summary(model: Module): string {
  const modules = new Map(model.namedModules())
  const own = new Map<string, [string, Tensor][]>([...modules.keys()].map((path) => [path, []]))
  for (const [name, t] of model.state()) {
    let path = name
    do path = path.slice(0, Math.max(0, path.lastIndexOf('.')))
    while (!modules.has(path))
    own.get(path)!.push([path ? name.slice(path.length + 1) : name, t])
  }
  const lines = [...modules].map(([path, m]) => {
    const tensors = own.get(path)!
    const parameters = tensors.filter(([, t]) => t instanceof Parameter)
    return [
      path,
      m.constructor.name,
      tensors.map(([name, t]) => `${name} ${showShape(t.shape)}${noteOf(t)}`).join(', '),
      parameters.length ? String(sizeOf(parameters.map(([, t]) => t))) : '',
    ]
  })
  const width = (column: number): number => Math.max(...lines.map((line) => line[column].length))
  const table = lines
    .filter(([path, , tensors]) => path || tensors)
    .map(([path, kind, tensors, count]) =>
      `${path.padEnd(width(0))}  ${kind.padEnd(width(1))}  ${tensors.padEnd(width(2))}  ${count.padStart(width(3))}`.trimEnd(),
    )
  const all = model.parameters()
  const frozen = all.filter((p) => !p.trainable)
  const size = sizeOf(all)
  const bytes = showBytes(all.reduce((n, p) => n + p.storage!.bytes, 0))
  const learns = frozen.length ? `, ${size - sizeOf(frozen)} of them learn` : ''
  return [`${lines[0][1]}, ${size} parameters in ${bytes}${learns}`, ...table].join('\n')
}

const sizeOf = (tensors: readonly Tensor[]): number => tensors.reduce((n, t) => n + t.size, 0)

/** What is no parameter that learns, or lies in another form. */
function noteOf(t: Tensor): string {
  if (!(t instanceof Parameter)) return ' buffer'
  const stored = t.stored === 'f32' ? '' : ` ${t.stored}`
  return t.trainable || !canLearn(t.stored) ? stored : `${stored} frozen`
}
